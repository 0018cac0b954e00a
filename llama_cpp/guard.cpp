// The library that Python opens as libllama.so: the functions of llama.h behind which a backend computes, each inside a `catch`.
//
// ggml's GPU backends throw where a device fails (ggml-vulkan.cpp, vk::SystemError), and llama.cpp lets some of these exceptions through
// its C interface (src/llama-context.cpp, llama_decode has no handler), where they end the process. Here they become what the caller
// knows: an error code or a null pointer, which upstream's bindings turn into a Python exception, and a line in llama.cpp's log.
// Every other symbol is found in the real library, which this one needs. The real one binds its own calls to itself
// (-Bsymbolic), so nothing inside llama.cpp runs through these.
#include "ggml-backend.h"
#include "llama.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

namespace {

template <typename Function> Function * real(const char * name) {
    static void * const library = dlopen(LLAMA_CPP_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Function *>(library ? dlsym(library, name) : nullptr);
}

void report(const char * function, const char * what) {
    ggml_log_callback log = nullptr;
    void * data = nullptr;
    llama_log_get(&log, &data);
    const std::string text = std::string(function) + ": the backend failed: " + what + "\n";
    if (log) {
        log(GGML_LOG_LEVEL_ERROR, text.c_str(), data);
    } else {
        std::fputs(text.c_str(), stderr);
    }
}

template <typename Result, typename Call> Result guarded(const char * function, Result failed, Call call) noexcept {
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

constexpr int32_t FAILED = -3;  // llama.h, llama_decode: "< -1: a fatal error during processing"

}  // namespace

// GUARD(type of the result, result after a failure, name, parameters, arguments)
#define GUARD(TYPE, ON_FAILURE, NAME, PARAMETERS, ARGUMENTS)                                          \
    extern "C" __attribute__((visibility("default"))) TYPE NAME PARAMETERS {                          \
        static auto * const function = real<TYPE PARAMETERS>(#NAME);                                  \
        return guarded<TYPE>(#NAME, ON_FAILURE, [&]() -> TYPE { return function ARGUMENTS; });        \
    }

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

// The same for functions without a result.
#define GUARD_VOID(NAME, PARAMETERS, ARGUMENTS)                                                       \
    extern "C" __attribute__((visibility("default"))) void NAME PARAMETERS {                          \
        static auto * const function = real<void PARAMETERS>(#NAME);                                  \
        guarded<int>(#NAME, 0, [&]() -> int { function ARGUMENTS; return 0; });                       \
    }

GUARD_VOID(llama_synchronize, (llama_context * ctx), (ctx))
GUARD_VOID(llama_memory_clear, (llama_memory_t memory, bool data), (memory, data))
GUARD_VOID(llama_free, (llama_context * ctx), (ctx))
GUARD_VOID(llama_model_free, (llama_model * model), (model))

// Can this device be made at all? Returns null, or why not; called for every GPU before the first model (llama_cpp/_backends.py).
// ggml-vulkan keeps a device that failed half-made, to use it with the next model and to destroy it at exit, and dies of either. So
// the caller takes the plugin off ggml's list, and the process leaves without that destructor, with the status that it has.
extern "C" __attribute__((visibility("default"))) const char * llama_cpp_device_error(size_t index) {
    static std::string reason;
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
#ifdef __GLIBC__  // nothing else tells a handler the status
    static const int once = on_exit([](int status, void *) { std::fflush(nullptr); _exit(status); }, nullptr);
    (void) once;
#endif
    return reason.c_str();
}
