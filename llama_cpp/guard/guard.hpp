// Functions of a C interface behind which a backend computes. See llama.cpp beside this file.
#pragma once

#include "failures.hpp"
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

// Runs `call`. False, and in llama.cpp's log why, where a plugin failed meanwhile (llama_cpp/boundary) or llama.cpp itself threw.
template <typename Call> bool succeeds(const char * function, Call call) noexcept {
    llama_cpp_guard_enter();
    std::string thrown;
    try {
        call();
    } catch (const std::exception & error) {
        thrown = error.what();
    } catch (...) {
        thrown = "unknown exception";
    }
    const char * const told = llama_cpp_guard_leave();
    if (told || !thrown.empty()) {
        report(function, told ? told : thrown.c_str());
        return false;
    }
    return true;
}

// The result of `call`; where it does not succeed, `failed`, after what it made all the same has been given to `undo`.
template <typename Result, typename Call, typename Undo>
Result guarded(const char * function, Result failed, Call call, Undo undo) noexcept {
    Result result = failed;
    if (succeeds(function, [&] { result = call(); })) {
        return result;
    }
    if (result != failed && !llama_cpp_guard_lost()) {
        succeeds(function, [&] { undo(result); });
    }
    return failed;
}

}  // namespace guard

// GUARD(type of the result, result after a failure, name, parameters, arguments)
#define GUARD(TYPE, ON_FAILURE, NAME, PARAMETERS, ARGUMENTS)                                                         \
    extern "C" GUARD_EXPORT TYPE NAME PARAMETERS {                                                                   \
        static auto * const function = guard::real<TYPE PARAMETERS>(#NAME);                                          \
        return guard::guarded<TYPE>(#NAME, ON_FAILURE, [&]() -> TYPE { return function ARGUMENTS; }, [](TYPE) {});    \
    }

// Of those that make something: type of the result, what frees it, name, parameters, arguments.
#define GUARD_MAKES(TYPE, FREE, NAME, PARAMETERS, ARGUMENTS)                                              \
    extern "C" GUARD_EXPORT TYPE NAME PARAMETERS {                                                        \
        static auto * const function = guard::real<TYPE PARAMETERS>(#NAME);                               \
        return guard::guarded<TYPE>(#NAME, nullptr, [&]() -> TYPE { return function ARGUMENTS; }, FREE);  \
    }

// Of those without a result.
#define GUARD_VOID(NAME, PARAMETERS, ARGUMENTS)                                        \
    extern "C" GUARD_EXPORT void NAME PARAMETERS {                                     \
        static auto * const function = guard::real<void PARAMETERS>(#NAME);            \
        guard::succeeds(#NAME, [&] { function ARGUMENTS; });                           \
    }

// And of those that give memory back. A backend that gave up cannot free what lies on its device (it would give up again, in a
// destructor, which must not throw), so from then on it stays where it is until the process ends.
#define GUARD_FREE(NAME, PARAMETERS, ARGUMENTS)                                            \
    extern "C" GUARD_EXPORT void NAME PARAMETERS {                                         \
        static auto * const function = guard::real<void PARAMETERS>(#NAME);                \
        if (!llama_cpp_guard_lost()) {                                                     \
            guard::succeeds(#NAME, [&] { function ARGUMENTS; });                           \
        }                                                                                  \
    }
