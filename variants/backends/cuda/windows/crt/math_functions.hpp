// NVIDIA's header for clang on Windows with MinGW's headers, which clang itself knows on Linux alone. Under _WIN32 it defines for MSVC what
// clang has already; without it, it wants a function of glibc's. (Included twice: clang lets the first time be empty.)
#pragma push_macro("_WIN32")
#undef _WIN32
#ifndef LLAMA_CPP_ISINF
#define LLAMA_CPP_ISINF
static inline __attribute__((host)) int __isinf(double value) { return __builtin_isinf(value); }
#endif
#include_next <crt/math_functions.hpp>
#pragma pop_macro("_WIN32")
