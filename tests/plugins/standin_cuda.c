// Stand-ins for what Windows has and this machine has not, compiled by zig: a plugin that needs a library of another package, as ggml's
// CUDA plugin does (PLUGIN), and that library (a cudart64_13.dll; without PLUGIN). The plugin has no devices.
#ifdef PLUGIN
#include "ggml-backend-impl.h"

#include "boundary.h"

__declspec(dllimport) int cudaRuntimeGetVersion(int * version);

static const char * name(ggml_backend_reg_t reg) { (void) reg; return "Stand-in"; }
static size_t none(ggml_backend_reg_t reg) { (void) reg; return 0; }
static struct ggml_backend_reg self = { GGML_BACKEND_API_VERSION, { name, none, NULL, NULL }, NULL };

__declspec(dllexport) int llama_cpp_boundary(const struct llama_cpp_hooks * hooks) { (void) hooks; return LLAMA_CPP_BOUNDARY; }

__declspec(dllexport) ggml_backend_reg_t ggml_backend_init(void) {
    int version = 0;
    return cudaRuntimeGetVersion(&version) == 0 && version >= 13000 ? &self : NULL;
}
#else
#ifndef VERSION
#define VERSION 13000
#endif
__declspec(dllexport) int cudaRuntimeGetVersion(int * version) {
    *version = VERSION;
    return 0;
}
#endif
