// The library that Python opens as libllama.so: the functions of llama.h behind which a backend computes, each inside a `catch`.
//
// ggml's GPU backends throw where a device fails (ggml-vulkan.cpp, vk::SystemError), and llama.cpp lets some of these exceptions through
// its C interface (src/llama-context.cpp, llama_decode has no handler), where they end the process. Here they become what the caller
// knows: an error code or a null pointer, which upstream's bindings turn into a Python exception, and a line in llama.cpp's log.
// Every other symbol is found in the real library, which this one needs. The real one binds its own calls to itself
// (-Bsymbolic), so nothing inside llama.cpp runs through these.
#include "llama.h"

#include "ggml-backend.h"
#include "guard.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#ifdef __GLIBC__
#include <unistd.h>
#endif

using guard::FAILED;

namespace {

// Takes every plugin but the CPU's off ggml's list, so that nobody asks a lost device anything. They stay mapped: contexts that
// still live point into them.
void forget_plugins() {
    for (size_t i = ggml_backend_reg_count(); i-- > 0;) {
        ggml_backend_reg_t plugin = ggml_backend_reg_get(i);
        if (std::strcmp(ggml_backend_reg_name(plugin), "CPU") != 0 && guard::keep(plugin)) {
            ggml_backend_unload(plugin);
        }
    }
}

// What a model may still use after a backend gave up: the CPU. One that asks for the GPU is refused.
llama_model_params usable(llama_model_params params) {
    if (llama_cpp_guard_lost()) {
        static std::once_flag once;
        std::call_once(once, forget_plugins);
        if (params.n_gpu_layers != 0) {
            throw std::runtime_error("the GPU failed earlier in this process; start a new one to use it again");
        }
    }
    return params;
}

}  // namespace

GUARD(int32_t, FAILED, llama_decode, (llama_context * ctx, llama_batch batch), (ctx, batch))
GUARD(int32_t, FAILED, llama_encode, (llama_context * ctx, llama_batch batch), (ctx, batch))
GUARD(float *, nullptr, llama_get_logits, (llama_context * ctx), (ctx))
GUARD(float *, nullptr, llama_get_logits_ith, (llama_context * ctx, int32_t i), (ctx, i))
GUARD(float *, nullptr, llama_get_embeddings, (llama_context * ctx), (ctx))
GUARD(float *, nullptr, llama_get_embeddings_ith, (llama_context * ctx, int32_t i), (ctx, i))
GUARD(float *, nullptr, llama_get_embeddings_seq, (llama_context * ctx, llama_seq_id seq), (ctx, seq))
GUARD(llama_token, LLAMA_TOKEN_NULL, llama_sampler_sample, (llama_sampler * smpl, llama_context * ctx, int32_t idx), (smpl, ctx, idx))
GUARD(size_t, 0, llama_state_get_size, (llama_context * ctx), (ctx))
GUARD(size_t, 0, llama_state_get_data, (llama_context * ctx, uint8_t * dst, size_t size), (ctx, dst, size))
GUARD(size_t, 0, llama_state_set_data, (llama_context * ctx, const uint8_t * src, size_t size), (ctx, src, size))
GUARD(size_t, 0, llama_state_seq_get_size, (llama_context * ctx, llama_seq_id seq), (ctx, seq))
GUARD(size_t, 0, llama_state_seq_get_data, (llama_context * ctx, uint8_t * dst, size_t size, llama_seq_id seq), (ctx, dst, size, seq))
GUARD(size_t, 0, llama_state_seq_set_data, (llama_context * ctx, const uint8_t * src, size_t size, llama_seq_id seq), (ctx, src, size, seq))

GUARD_VOID(llama_synchronize, (llama_context * ctx), (ctx))
GUARD_VOID(llama_memory_clear, (llama_memory_t memory, bool data), (memory, data))
GUARD_FREE(llama_free, (llama_context * ctx), (ctx))
GUARD_FREE(llama_model_free, (llama_model * model), (model))

GUARD(llama_context *, nullptr, llama_init_from_model, (llama_model * model, llama_context_params params), (model, params))
GUARD(llama_model *, nullptr, llama_model_load_from_file, (const char * path, llama_model_params params), (path, usable(params)))
GUARD(llama_model *, nullptr, llama_model_load_from_splits, (const char ** paths, size_t n, llama_model_params params), (paths, n, usable(params)))

// Loads a plugin as ggml_backend_load does. Where its first look at the devices fails (ggml-cuda gives up), null, and why.
extern "C" GUARD_EXPORT void * llama_cpp_backend_load(const char * path, const char ** why) {
    static std::string reason;
    const guard::Inside inside;
    try {
        return ggml_backend_load(path);
    } catch (const std::exception & error) {
        reason = error.what();
    } catch (...) {
        reason = "unknown exception";
    }
    llama_cpp_guard_set_lost(false);  // nothing of the plugin is used
    *why = reason.c_str();
    return nullptr;
}

// Can this device be made at all? Returns null, or why not; called for every GPU before the first model (llama_cpp/_backends.py).
// ggml-vulkan keeps a device that failed half-made, to use it with the next model and to destroy it at exit, and dies of either. So
// the caller takes the plugin off ggml's list, and the process leaves without that destructor, with the status that it has.
extern "C" GUARD_EXPORT const char * llama_cpp_device_error(size_t index) {
    static std::string reason;
    const guard::Inside inside;
    try {
        ggml_backend_t backend = ggml_backend_dev_init(ggml_backend_dev_get(index), nullptr);
        if (backend) {
            ggml_backend_free(backend);
            return nullptr;
        }
        reason = "the device cannot be initialised";
    } catch (const std::exception & error) {
        reason = error.what();
    } catch (...) {
        reason = "unknown exception";
    }
    llama_cpp_guard_set_lost(false);  // the plugin is taken out
#ifdef __GLIBC__  // nothing else tells a handler the status
    static const int once = on_exit([](int status, void *) { std::fflush(nullptr); _exit(status); }, nullptr);
    (void) once;
#endif
    return reason.c_str();
}
