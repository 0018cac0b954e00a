// NVIDIA's header for clang on Windows with MinGW's headers, which clang itself knows on Linux alone. Under _WIN32 it defines for MSVC what
// clang has already; without it, it wants a function of glibc's.
#pragma once
#pragma push_macro("_WIN32")
#undef _WIN32
static inline __attribute__((host)) int __isinf(double value) { return __builtin_isinf(value); }
#include_next <crt/math_functions.hpp>
#pragma pop_macro("_WIN32")
