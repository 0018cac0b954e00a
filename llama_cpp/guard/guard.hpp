// Functions of a C interface, each inside a `catch`. See llama.cpp beside this file.
#pragma once

#include "aborts.hpp"
#include "llama.h"
#include "system.hpp"

#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

namespace guard {

constexpr int32_t FAILED = -3;  // llama.h, llama_decode: "< -1: a fatal error during processing"

// The function of this name in LLAMA_CPP_LIBRARY, the library that stands behind the one being compiled.
template <typename Function> Function * real(const char * name) {
    return reinterpret_cast<Function *>(find(LLAMA_CPP_LIBRARY, name));
}

inline void report(const char * function, const char * what) {
    ggml_log_callback log = nullptr;
    void * data = nullptr;
#ifndef LLAMA_CPP_NO_LOG_GET // then to stderr, whatever logger there is
    llama_log_get(&log, &data);
#endif
    const std::string text = std::string(function) + ": the backend failed: " + what + "\n";
    if (log) {
        log(GGML_LOG_LEVEL_ERROR, text.c_str(), data);
    } else {
        std::fputs(text.c_str(), stderr);
    }
}

// While one lives, this thread is inside a guarded function: a backend that gives up throws instead of ending the process.
struct Inside {
    Inside() { ++*llama_cpp_guard_depth(); }
    ~Inside() { --*llama_cpp_guard_depth(); }
    Inside(const Inside &) = delete;
    Inside & operator=(const Inside &) = delete;
};

template <typename Result, typename Call> Result guarded(const char * function, Result failed, Call call) noexcept {
    const Inside inside;
    try {
        try {
            return call();
        } catch (const std::exception & error) {
            report(function, error.what());
        }
    } catch (...) {
        report(function, "unknown exception");
    }
    return failed;
}

}  // namespace guard

// GUARD(type of the result, result after a failure, name, parameters, arguments)
#define GUARD(TYPE, ON_FAILURE, NAME, PARAMETERS, ARGUMENTS)                                          \
    extern "C" GUARD_EXPORT TYPE NAME PARAMETERS {                                                    \
        static auto * const function = guard::real<TYPE PARAMETERS>(#NAME);                           \
        return guard::guarded<TYPE>(#NAME, ON_FAILURE, [&]() -> TYPE { return function ARGUMENTS; }); \
    }

// The same for functions without a result.
#define GUARD_VOID(NAME, PARAMETERS, ARGUMENTS)                                        \
    extern "C" GUARD_EXPORT void NAME PARAMETERS {                                     \
        static auto * const function = guard::real<void PARAMETERS>(#NAME);            \
        guard::guarded<int>(#NAME, 0, [&]() -> int { function ARGUMENTS; return 0; }); \
    }

// And for those that give memory back. A backend that gave up cannot free what lies on its device (it would give up again, in a
// destructor, which must not throw), so from then on it stays where it is until the process ends.
#define GUARD_FREE(NAME, PARAMETERS, ARGUMENTS)                                            \
    extern "C" GUARD_EXPORT void NAME PARAMETERS {                                         \
        static auto * const function = guard::real<void PARAMETERS>(#NAME);                \
        if (!llama_cpp_guard_lost()) {                                                     \
            guard::guarded<int>(#NAME, 0, [&]() -> int { function ARGUMENTS; return 0; }); \
        }                                                                                  \
    }
