#include "failures.hpp"

#include <atomic>
#include <cstdio>
#include <string>

namespace {

std::atomic<bool> lost{false};

// Of one thread: how many guarded functions it is inside of, and whether a plugin has failed since the outermost began.
struct Thread {
    int depth = 0;
    bool failing = false;
    bool trial = false;
    std::string why;
};
thread_local Thread thread;

void failed(const char * why, int gave_up) {
    if (gave_up && !thread.trial) {
        lost = true;
    }
    if (!thread.depth) {  // nobody will ask: somebody calls ggml by himself, or the plugin in a thread of its own
        std::fprintf(stderr, "a backend failed: %s\n", why);
    } else if (!thread.failing) {  // the first reason is the cause
        thread.failing = true;
        thread.why = why;
    }
}

int failing(void) {
    return thread.failing;
}

}  // namespace

const llama_cpp_hooks * llama_cpp_guard_hooks(void) {
    static const llama_cpp_hooks hooks = {LLAMA_CPP_BOUNDARY, failed, failing};
    return &hooks;
}

void llama_cpp_guard_enter(void) {
    if (!thread.depth++) {
        thread.failing = false;
    }
}

const char * llama_cpp_guard_leave(void) {
    const bool failed_now = thread.failing;
    if (!--thread.depth) {
        thread.failing = false;
    }
    return failed_now ? thread.why.c_str() : nullptr;
}

bool llama_cpp_guard_lost(void) {
    return lost;
}

void llama_cpp_guard_enter_trial(void) {
    ++thread.depth;
    thread.trial = true;
    thread.failing = false;
}

const char * llama_cpp_guard_leave_trial(void) {
    const bool failed_now = thread.failing;
    --thread.depth;
    thread.trial = thread.failing = false;
    return failed_now ? thread.why.c_str() : nullptr;
}
