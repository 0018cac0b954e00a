// What the plugins tell of their failures, kept in the real libllama for the libraries of the guard.
#pragma once

#include "../boundary/boundary.h"
#include "system.hpp"

extern "C" {
// What a plugin of this core is given before it is initialised.
GUARD_EXPORT const llama_cpp_hooks * llama_cpp_guard_hooks(void);
// A guarded function begins in this thread, and ends. Returns why a plugin failed meanwhile, or null; good until the next one begins.
GUARD_EXPORT void llama_cpp_guard_enter(void);
GUARD_EXPORT const char * llama_cpp_guard_leave(void);
// Has a plugin given up in this process, and something of it is left?
GUARD_EXPORT bool llama_cpp_guard_lost(void);
// Says so, or takes it back, where the whole plugin has been given up.
GUARD_EXPORT void llama_cpp_guard_set_lost(bool yes);
}
