// The library that Python opens as libllama.so: the functions of llama.h behind which a backend computes (llama.inc).
//
// Where a plugin fails, it tells the core so and returns (llama_cpp/boundary), but llama.cpp looks at few of these results
// (src/llama-context.cpp). So each function here asks afterwards, and gives the caller what it knows: an error code or a null pointer, which
// upstream's bindings turn into a Python exception, and a line in llama.cpp's log.
// Every other symbol is found in the real library, which this one needs. The real one binds its own calls to itself
// (-Bsymbolic), so nothing inside llama.cpp runs through these.
#include "llama.h"

#include "ggml-backend-impl.h"
#include "guard.hpp"
#include "trust.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

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

// What a model may use: devices that have computed (trust.hpp); after a backend gave up, the CPU. One that asks for another is refused.
llama_model_params usable(llama_model_params params) {
    if (llama_cpp_guard_lost()) {
        static std::once_flag once;
        std::call_once(once, forget_plugins);
        if (params.n_gpu_layers != 0) {
            throw std::runtime_error("the GPU failed earlier in this process; start a new one to use it again");
        }
    }
    if (const char * const refused = llama_cpp_trust_model(&params)) {
        throw std::runtime_error(refused);
    }
    return params;
}

}  // namespace

#include "guarded-llama.inc"

#ifdef _WIN32
namespace {

// Registers an opened plugin, as ggml_backend_load does (ggml-backend-reg.cpp), which takes its path in the system's code page: that has
// not every letter.
ggml_backend_reg_t registered(void * library) {
    if (!library) {
        throw std::runtime_error("it cannot be opened: error " + std::to_string(GetLastError()) + " of Windows");
    }
    const auto score = reinterpret_cast<ggml_backend_score_t>(guard::symbol(library, "ggml_backend_score"));
    if (score && score() == 0) {
        throw std::runtime_error("it is not supported on this system");
    }
    const auto init = reinterpret_cast<ggml_backend_init_t>(guard::symbol(library, "ggml_backend_init"));
    ggml_backend_reg_t const plugin = init ? init() : nullptr;
    if (!plugin) {
        throw std::runtime_error(init ? "ggml_backend_init returned null" : "it has no ggml_backend_init");
    }
    if (plugin->api_version != GGML_BACKEND_API_VERSION) {
        throw std::runtime_error("it is of API version " + std::to_string(plugin->api_version) + ", this core of " +
                                 std::to_string(GGML_BACKEND_API_VERSION));
    }
    ggml_backend_register(plugin);
    return plugin;
}

}  // namespace
#endif

// Loads a plugin as ggml_backend_load does, once it has been given what it needs to tell of its failures. Null, and why, where it is of
// another boundary, or has none and `any` is false (a plugin that the user named may be any), or where its first look at the devices fails.
extern "C" GUARD_EXPORT void * llama_cpp_backend_load(const char * path, bool any, const char ** why) {
    static std::string reason;
    void * plugin = nullptr;
    reason = guard::why_not([&] {
        void * const library = guard::open(path);
        const auto boundary = library ? reinterpret_cast<llama_cpp_boundary_t>(guard::symbol(library, "llama_cpp_boundary")) : nullptr;
        if (boundary) {
            const int version = boundary(llama_cpp_guard_hooks());
            if (version != LLAMA_CPP_BOUNDARY) {
                throw std::runtime_error("the plugin is built for boundary " + std::to_string(version) + ", this core has " +
                                         std::to_string(LLAMA_CPP_BOUNDARY) + ": build it anew for this core");
            }
        } else if (library && !any) {
            throw std::runtime_error("the plugin has no boundary (llama_cpp_boundary), so its failures would end the process: build it "
                                     "with `nox -s build_variant`, or name it in GGML_BACKEND_PATH");
        }
#ifdef _WIN32
        plugin = registered(library);
#else
        plugin = ggml_backend_load(path);  // which says why a library cannot be opened
#endif
    });
    *why = reason.empty() ? nullptr : reason.c_str();
    return *why ? nullptr : plugin;
}

// The loader's own questions (llama_cpp/_backends.py), as in trust.hpp: of one device, by its index in ggml's list, and of those of a model.
extern "C" GUARD_EXPORT const char * llama_cpp_device_error(size_t index, bool ask) {
    return llama_cpp_trust_error(ggml_backend_dev_get(index), ask);
}

extern "C" GUARD_EXPORT const char * llama_cpp_try_model(const llama_model_params * params) {
    llama_model_params copy = *params;
    return llama_cpp_trust_model(&copy);
}
