// What the plugins tell of their failures, kept in the real libllama for the libraries of the guard.
#pragma once

#include "../boundary/boundary.h"
#include "system.hpp"

#include <exception>
#include <string>

extern "C" {
// What a plugin of this core is given before it is initialised.
GUARD_EXPORT const llama_cpp_hooks * llama_cpp_guard_hooks(void);
// A guarded function begins in this thread, and ends. Returns why a plugin failed meanwhile, or null; good until the next one begins.
GUARD_EXPORT void llama_cpp_guard_enter(void);
GUARD_EXPORT const char * llama_cpp_guard_leave(void);
// Has a plugin given up in this process, and something of it is left?
GUARD_EXPORT bool llama_cpp_guard_lost(void);
// A trial begins in this thread, inside a guarded function or not, and ends: what fails in it is told to nobody but its caller.
GUARD_EXPORT void llama_cpp_guard_enter_trial(void);
GUARD_EXPORT const char * llama_cpp_guard_leave_trial(void);
}

namespace guard {

// Runs `call` as a trial; returns why it did not succeed, or nothing.
template <typename Call> std::string why_not(Call call) {
    std::string reason;
    llama_cpp_guard_enter_trial();
    try {
        call();
    } catch (const std::exception & error) {
        reason = error.what();
    } catch (...) {
        reason = "unknown exception";
    }
    if (const char * const told = llama_cpp_guard_leave_trial()) {
        reason = told;
    }
    return reason;
}

}  // namespace guard
