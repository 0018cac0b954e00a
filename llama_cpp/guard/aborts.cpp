// A backend that gives up (GGML_ABORT in ggml-cuda or ggml-rpc, where a device or server fails) throws to the guarded function that
// called it, instead of ending the process. Everybody else's aborts stay what they are: a failed assertion in ggml or its CPU
// backend leaves nothing that could go on.
#include "aborts.hpp"

#include "ggml.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

std::atomic<bool> lost{false};

// Does this message ("…/ggml/src/ggml-cuda/ggml-cuda.cu:103: CUDA error") come from a GPU plugin?
bool of_a_plugin(const std::string & message) {
    std::string path = message.substr(0, message.find(": "));
    std::replace(path.begin(), path.end(), '\\', '/');
    static const std::string folder = "/src/ggml-";
    const size_t at = path.find(folder);
    if (at == std::string::npos) {
        return false;
    }
    const std::string name = path.substr(at + folder.size(), path.find('/', at + folder.size()) - at - folder.size());
    return name.find(':') == std::string::npos && name != "cpu";  // no folder: ggml's own files
}

void on_abort(const char * text) {
    const std::string message = text;
    if (*llama_cpp_guard_depth() > 0 && !std::uncaught_exceptions() && of_a_plugin(message)) {
        lost = true;
        throw std::runtime_error(message);
    }
    // As without us: the message, then a backtrace.
    ggml_set_abort_callback(nullptr);
    const size_t colon = message.find(':');
    const std::string file = message.substr(0, colon);
    const char * const rest = colon == std::string::npos ? "" : text + colon + 1;
    const char * const said = std::strstr(rest, ": ");
    ggml_abort(file.c_str(), std::atoi(rest), "%s", said ? said + 2 : rest);
}

[[maybe_unused]] const auto previous = ggml_set_abort_callback(on_abort);

}  // namespace

int * llama_cpp_guard_depth(void) {
    static thread_local int depth = 0;
    return &depth;
}

bool llama_cpp_guard_lost(void) {
    return lost;
}

void llama_cpp_guard_set_lost(bool yes) {
    lost = yes;
}
