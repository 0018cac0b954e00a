// What the libraries of the guard share, in the real libllama.
#pragma once

extern "C" {
// How many guarded functions this thread is inside of.
__attribute__((visibility("default"))) int * llama_cpp_guard_depth(void);
// Has a backend given up in this process?
__attribute__((visibility("default"))) bool llama_cpp_guard_lost(void);
}
