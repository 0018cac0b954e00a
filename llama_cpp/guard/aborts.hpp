// What the libraries of the guard share, in the real libllama.
#pragma once

#include "system.hpp"

extern "C" {
// How many guarded functions this thread is inside of.
GUARD_EXPORT int * llama_cpp_guard_depth(void);
// Has a backend given up in this process, and something of it is left?
GUARD_EXPORT bool llama_cpp_guard_lost(void);
// Says so, or takes it back, where the whole plugin has been given up.
GUARD_EXPORT void llama_cpp_guard_set_lost(bool yes);
}
