// Compiled into every GPU plugin, by the plugin's own compiler: no exception and no abort leaves it.
//
// ggml calls a plugin through function pointers, in the objects that the plugin hands out (ggml-backend-impl.h). Each of them is
// replaced here by a wrapper that catches. The caller gets what means failure for its type (GGML_STATUS_FAILED, null, false), and the
// core is told the reason (boundary.h). Until the core's function that is running returns, nothing more is asked of the device.
//
// The plugin is compiled with two names changed: its ggml_backend_init is llama_cpp_plugin_init, which is called here, and its
// ggml_abort is llama_cpp_plugin_abort, which throws to the wrapper.
#undef ggml_abort
#undef ggml_backend_init
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml.h"

#include "boundary.h"

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef _WIN32
#define PLUGIN_EXPORT extern "C" __declspec(dllexport)
#else
#define PLUGIN_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

llama_cpp_hooks core{};
thread_local int depth = 0;  // of wrapped calls in this thread

struct Inside {
    Inside() { ++depth; }
    ~Inside() { --depth; }
    Inside(const Inside &) = delete;
    Inside & operator=(const Inside &) = delete;
};

// What an abort is here. No std::exception: the plugin's own handlers are not meant for it.
struct GaveUp {
    std::string why;
};

void tell(const char * why, bool gave_up) noexcept {
    if (core.failed) {
        core.failed(why, gave_up);
    } else {  // a core without hooks
        std::fprintf(stderr, "%s\n", why);
    }
}

// Runs `call`; false, and told, where it throws.
template <typename Call> bool caught(Call call) noexcept {
    const Inside inside;
    try {
        try {
            call();
            return true;
        } catch (const GaveUp & abort) {
            tell(abort.why.c_str(), true);
        } catch (const std::exception & error) {
            tell(error.what(), false);
        }
    } catch (...) {
        tell("unknown exception", false);
    }
    return false;
}

// --- the interfaces, field by field -------------------------------------------------------------------------------------------

// A field by its name; `of` does not compile for an interface without it.
#define FIELD(NAME)                                                                                  \
    struct NAME {                                                                                    \
        template <typename I> static auto of(I & iface) -> decltype((iface.NAME)) { return iface.NAME; } \
    };
namespace field {
FIELD(get_name) FIELD(alloc_buffer) FIELD(get_alignment) FIELD(get_max_size) FIELD(get_alloc_size) FIELD(is_host)
FIELD(free_buffer) FIELD(get_base) FIELD(init_tensor) FIELD(memset_tensor) FIELD(set_tensor) FIELD(get_tensor)
FIELD(set_tensor_2d) FIELD(get_tensor_2d) FIELD(cpy_tensor) FIELD(clear) FIELD(reset)
FIELD(free) FIELD(set_tensor_async) FIELD(get_tensor_async) FIELD(set_tensor_2d_async) FIELD(get_tensor_2d_async)
FIELD(cpy_tensor_async) FIELD(synchronize) FIELD(graph_plan_create) FIELD(graph_plan_free) FIELD(graph_plan_update)
FIELD(graph_plan_compute) FIELD(graph_compute) FIELD(event_record) FIELD(event_wait) FIELD(graph_optimize)
FIELD(get_description) FIELD(get_memory) FIELD(get_type) FIELD(get_props) FIELD(init_backend) FIELD(get_buffer_type)
FIELD(get_host_buffer_type) FIELD(buffer_from_host_ptr) FIELD(supports_op) FIELD(supports_buft) FIELD(offload_op)
FIELD(event_new) FIELD(event_free) FIELD(event_synchronize) FIELD(get_device_count) FIELD(get_device) FIELD(get_proc_address)
}  // namespace field
#undef FIELD

template <typename... F> struct Fields {};

// Every field of an interface: those that are wrapped, and those that are not. A field of an older llama.cpp may be missing; one that
// is named in neither list does not compile.
//
// Not wrapped: get_name, by which plugins know their own objects (ggml-cuda.cu, ggml_backend_buft_is_cuda), and which returns a constant;
// free_buffer, for the same reason (ggml_backend_buffer_is_cuda).
template <typename I> struct Interface;
template <> struct Interface<ggml_backend_buffer_type_i> {
    using wrapped = Fields<field::alloc_buffer, field::get_alignment, field::get_max_size, field::get_alloc_size, field::is_host>;
    using bare = Fields<field::get_name>;
};
template <> struct Interface<ggml_backend_buffer_i> {
    using wrapped = Fields<field::get_base, field::init_tensor, field::memset_tensor, field::set_tensor, field::get_tensor,
                           field::set_tensor_2d, field::get_tensor_2d, field::cpy_tensor, field::clear, field::reset>;
    using bare = Fields<field::free_buffer>;
};
template <> struct Interface<ggml_backend_i> {
    using wrapped = Fields<field::free, field::set_tensor_async, field::get_tensor_async, field::set_tensor_2d_async,
                           field::get_tensor_2d_async, field::cpy_tensor_async, field::synchronize, field::graph_plan_create,
                           field::graph_plan_free, field::graph_plan_update, field::graph_plan_compute, field::graph_compute,
                           field::event_record, field::event_wait, field::graph_optimize>;
    using bare = Fields<field::get_name>;
};
template <> struct Interface<ggml_backend_device_i> {
    using wrapped = Fields<field::get_description, field::get_memory, field::get_type, field::get_props, field::init_backend,
                           field::get_buffer_type, field::get_host_buffer_type, field::buffer_from_host_ptr, field::supports_op,
                           field::supports_buft, field::offload_op, field::event_new, field::event_free, field::event_synchronize>;
    using bare = Fields<field::get_name>;
};
template <> struct Interface<ggml_backend_reg_i> {
    using wrapped = Fields<field::get_device_count, field::get_device, field::get_proc_address>;  // by functions of their own, below
    using bare = Fields<field::get_name>;
};

template <typename I, typename F, typename = void> struct has : std::false_type {};
template <typename I, typename F> struct has<I, F, std::void_t<decltype(F::of(std::declval<I &>()))>> : std::true_type {};

template <typename I, typename... F> constexpr size_t size_of(Fields<F...>) {
    size_t size = 0;
    const auto add = [&size](size_t more) { size += more; };
    (add(has<I, F>::value ? sizeof(void (*)()) : 0), ...);
    return size;
}

// --- what a caller gets where a call failed ---------------------------------------------------------------------------------------

// By the type of the result; where the core would not survive that, by the field. After the failure the core's function runs on to its
// next check, so these must only lead it there.
template <typename F, typename R, typename... A> R failure([[maybe_unused]] A... arguments) {
    if constexpr (std::is_same_v<R, ggml_status>) {
        return GGML_STATUS_FAILED;
    } else if constexpr (std::is_same_v<F, field::get_buffer_type>) {
        return ggml_backend_cpu_buffer_type();  // the core reads it without asking (ggml_backend_buft_name)
    } else if constexpr (std::is_same_v<F, field::get_base>) {
        return reinterpret_cast<void *>(0x1000);  // never null (ggml_backend_buffer_get_base); what ggml-vulkan.cpp takes, too
    } else if constexpr (std::is_same_v<F, field::get_alignment>) {
        return 128;  // a power of two, which the core divides by
    } else if constexpr (std::is_same_v<F, field::get_max_size>) {
        return SIZE_MAX;
    } else if constexpr (std::is_same_v<F, field::get_alloc_size>) {
        return [](ggml_backend_buffer_type_t, const ggml_tensor * tensor) { return ggml_nbytes(tensor); }(arguments...);
    } else if constexpr (std::is_same_v<F, field::get_description>) {
        return "unknown";
    } else if constexpr (std::is_same_v<F, field::get_type>) {
        return GGML_BACKEND_DEVICE_TYPE_GPU;
    } else if constexpr (std::is_same_v<F, field::supports_op> || std::is_same_v<F, field::supports_buft>) {
        return true;  // else the scheduler ends the process over a tensor that nobody can compute with (ggml-backend.cpp)
    } else if constexpr (!std::is_void_v<R>) {
        return R{};
    }
}

// Is this a result that the core survives? Where not, the call counts as failed.
template <typename F, typename R> const char * mistake([[maybe_unused]] R result) {
    if constexpr (std::is_same_v<F, field::get_buffer_type>) {
        return result ? nullptr : "the plugin has no buffer type for its device";
    } else if constexpr (std::is_same_v<F, field::get_base>) {
        return result ? nullptr : "the plugin has a buffer that lies nowhere";
    } else if constexpr (std::is_same_v<F, field::get_alignment>) {
        return result && !(result & (result - 1)) ? nullptr : "the plugin has an alignment that is no power of two";
    } else if constexpr (std::is_same_v<F, field::get_description>) {
        return result ? nullptr : "the plugin has a device without a description";
    } else {
        return nullptr;
    }
}

// What a failed function leaves in the memory that it should have filled.
template <typename F, typename... A> void fill(A... arguments) {
    if constexpr (std::is_same_v<F, field::get_memory>) {
        [](ggml_backend_dev_t, size_t * free, size_t * total) { *free = *total = 0; }(arguments...);
    } else if constexpr (std::is_same_v<F, field::get_props>) {
        [](ggml_backend_dev_t device, ggml_backend_dev_props * props) {
            *props = {};
            props->name = device->iface.get_name(device);
            props->description = "unknown";
            props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
        }(arguments...);
    } else if constexpr (std::is_same_v<F, field::get_tensor> || std::is_same_v<F, field::get_tensor_async>) {
        [](auto, const ggml_tensor *, void * data, size_t, size_t size) { std::memset(data, 0, size); }(arguments...);
    } else if constexpr (std::is_same_v<F, field::get_tensor_2d> || std::is_same_v<F, field::get_tensor_2d_async>) {
        [](auto, const ggml_tensor *, void * data, size_t, size_t size, size_t copies, size_t, size_t stride) {
            for (size_t i = 0; i < copies; ++i) {
                std::memset(static_cast<char *>(data) + i * stride, 0, size);
            }
        }(arguments...);
    }
}

// --- the wrappers ------------------------------------------------------------------------------------------------------------------

// A plugin has few different contents of an interface (CUDA's buffers: two). Each has wrappers of its own, so that a wrapper knows what it
// stands before without a look-up.
constexpr size_t CONTENTS = 8;
template <typename I> struct Contents {
    static inline I original[CONTENTS];
    static inline I wrapped[CONTENTS];
    static inline std::atomic<size_t> count{0};
};
std::mutex adding;

template <typename I> void replace(I & iface);

// The objects that a plugin hands out carry an interface of their own.
template <typename T> auto adopt(T * object, int) -> decltype(object->iface, void()) { replace(object->iface); }
template <typename T> void adopt(T *, long) {}

// Of these, nothing is asked while a failure is under way. What frees is called nevertheless.
template <typename I, typename F>
constexpr bool computes = (std::is_same_v<I, ggml_backend_i> || std::is_same_v<I, ggml_backend_buffer_i>) && !std::is_same_v<F, field::free> &&
                          !std::is_same_v<F, field::graph_plan_free>;

template <typename I, size_t K, typename F, typename R, typename... A> R wrapper(A... arguments) noexcept {
    if (!computes<I, F> || !core.failing || !core.failing()) {
        if constexpr (std::is_void_v<R>) {
            if (caught([&] { F::of(Contents<I>::original[K])(arguments...); })) {
                return;
            }
        } else {
            R result{};
            const bool done = caught([&] {
                result = F::of(Contents<I>::original[K])(arguments...);
                if (const char * wrong = mistake<F>(result)) {
                    throw std::runtime_error(wrong);
                }
                if constexpr (std::is_pointer_v<R>) {
                    if (result) {
                        adopt(result, 0);
                    }
                }
            });
            if (done) {
                return result;
            }
        }
    }
    fill<F>(arguments...);
    return failure<F, R>(arguments...);
}

void * proc_address(ggml_backend_reg_t reg, const char * name);

// The plugin's registration and its devices, as they were when it was loaded: whoever asks later gets these, whatever became of the
// devices since. (ggml-rpc has further registrations, one a server.)
ggml_backend_reg_t registered = nullptr;
std::vector<ggml_backend_dev_t> devices;

template <size_t K> size_t device_count(ggml_backend_reg_t reg) {
    using I = ggml_backend_reg_i;
    return reg == registered ? devices.size() : wrapper<I, K, field::get_device_count, size_t, ggml_backend_reg_t>(reg);
}
template <size_t K> ggml_backend_dev_t device(ggml_backend_reg_t reg, size_t index) {
    using I = ggml_backend_reg_i;
    if (reg == registered) {
        return index < devices.size() ? devices[index] : nullptr;
    }
    return wrapper<I, K, field::get_device, ggml_backend_dev_t, ggml_backend_reg_t, size_t>(reg, index);
}

template <typename I, size_t K, typename F, typename R, typename... A> void wrap_field(R (*&pointer)(A...)) {
    if (!pointer) {
        return;  // optional in ggml, and this plugin has it not
    }
    if constexpr (std::is_same_v<F, field::get_proc_address>) {
        pointer = proc_address;
    } else if constexpr (std::is_same_v<F, field::get_device_count>) {
        pointer = device_count<K>;
    } else if constexpr (std::is_same_v<F, field::get_device>) {
        pointer = device<K>;
    } else {
        pointer = wrapper<I, K, F, R, A...>;
    }
}

template <typename I, size_t K, typename... F> void wrap_fields(I & iface, Fields<F...>) {
    const auto one = [&iface](auto tag) {
        using T = decltype(tag);
        if constexpr (has<I, T>::value) {
            wrap_field<I, K, T>(T::of(iface));
        }
    };
    (one(F{}), ...);
}

template <typename I, size_t... K> void wrap(I & iface, size_t k, std::index_sequence<K...>) {
    static_assert(sizeof(I) == size_of<I>(typename Interface<I>::wrapped{}) + size_of<I>(typename Interface<I>::bare{}),
                  "This llama.cpp has a function in an interface that llama_cpp/boundary/boundary.cpp does not name: add it to the "
                  "interface's list there, wrapped or bare, and to what a caller gets where it fails.");
    ((K == k ? wrap_fields<I, K>(iface, typename Interface<I>::wrapped{}) : void()), ...);
}

// Puts wrappers into an interface, if they are not there yet.
template <typename I> void replace(I & iface) {
    using C = Contents<I>;
    const auto same = [](const I & a, const I & b) { return std::memcmp(&a, &b, sizeof(I)) == 0; };
    const auto known = [&] {
        for (size_t k = 0, n = C::count; k < n; ++k) {
            if (same(iface, C::wrapped[k])) {
                return true;
            }
            if (same(iface, C::original[k])) {
                iface = C::wrapped[k];
                return true;
            }
        }
        return false;
    };
    if (known()) {
        return;
    }
    const std::lock_guard<std::mutex> lock(adding);
    if (known()) {
        return;
    }
    const size_t k = C::count;
    if (k == CONTENTS) {
        throw std::runtime_error("the plugin has more kinds of an interface than llama_cpp/boundary/boundary.cpp has room for");
    }
    C::original[k] = C::wrapped[k] = iface;
    wrap(C::wrapped[k], k, std::make_index_sequence<CONTENTS>());
    iface = C::wrapped[k];
    C::count = k + 1;
}

// --- the functions behind get_proc_address --------------------------------------------------------------------------------------------

template <typename R> R proc_failure() {
    if constexpr (std::is_same_v<R, ggml_backend_feature *>) {
        static ggml_backend_feature none = {};
        return &none;  // read without asking (llama_print_system_info)
    } else {
        return R{};
    }
}

// A function by its name: one wrapper a name, which the plugin's own is called behind.
template <typename Name, typename R, typename... A> struct Proc {
    static inline R (*original)(A...) = nullptr;
    static R call(A... arguments) noexcept {
        if constexpr (std::is_void_v<R>) {
            caught([&] { original(arguments...); });
        } else {
            R result{};
            const bool done = caught([&] {
                result = original(arguments...);
                if constexpr (std::is_pointer_v<R>) {
                    if (result) {
                        adopt(result, 0);
                    }
                }
            });
            return done ? result : proc_failure<R>();
        }
    }
};

template <typename Name, typename R, typename... A> void * proc(void * found, R (*)(A...)) {
    using P = Proc<Name, R, A...>;
    P::original = reinterpret_cast<R (*)(A...)>(found);
    return reinterpret_cast<void *>(P::call);
}

// The plugin's own table of these. Named here: what llama.cpp asks a GPU plugin for (ggml-backend.h, "Common functions"), with its type.
// Anything else is not given, as if the plugin had it not; tests/boundary compares the list with upstream's source.
void * (*plugin_proc_address)(ggml_backend_reg_t, const char *) = nullptr;

#define PROC(NAME, ...)                                      \
    if (!std::strcmp(name, #NAME)) {                         \
        struct of_##NAME {};                                 \
        return proc<of_##NAME>(found, static_cast<__VA_ARGS__>(nullptr)); \
    }
void * proc_address(ggml_backend_reg_t reg, const char * name) {
    void * found = nullptr;
    if (!caught([&] { found = plugin_proc_address(reg, name); }) || !found) {
        return nullptr;
    }
    // llama-model.cpp: rows of a tensor split over several GPUs.
    PROC(ggml_backend_split_buffer_type, ggml_backend_buffer_type_t (*)(int, const float *))
    // ggml-backend-meta.cpp: several GPUs that compute one tensor together.
    PROC(ggml_backend_comm_init, void * (*)(ggml_backend_t *, size_t))
    PROC(ggml_backend_comm_free, void (*)(void *))
    PROC(ggml_backend_comm_allreduce_tensor, bool (*)(void *, ggml_tensor **))
    // ggml-cuda.h: memory of the host that the GPU may read by itself.
    PROC(ggml_backend_register_host_buffer, bool (*)(void *, size_t))
    PROC(ggml_backend_unregister_host_buffer, void (*)(void *))
    // What the plugin was compiled for; asked by llama_print_system_info.
    PROC(ggml_backend_get_features, ggml_backend_feature * (*)(ggml_backend_reg_t))
    // Of backends that compute on the CPU by themselves (BLAS, OpenVINO, a server over RPC).
    PROC(ggml_backend_set_n_threads, void (*)(ggml_backend_t, int))
    PROC(ggml_backend_set_abort_callback, void (*)(ggml_backend_t, ggml_abort_callback, void *))
    // ggml-rpc.h.
    PROC(ggml_backend_rpc_add_server, ggml_backend_reg_t (*)(const char *))
    PROC(ggml_backend_rpc_start_server, void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *))
    return nullptr;
}
#undef PROC

}  // namespace

// GGML_ABORT and GGML_ASSERT inside the plugin. In a thread of the plugin's own, and in a destructor that runs while an exception is under
// way, nobody could catch: there the process ends, as ggml means it to.
extern "C" void llama_cpp_plugin_abort(const char * file, int line, const char * format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (depth > 0 && !std::uncaught_exceptions()) {
        throw GaveUp{std::string(file) + ":" + std::to_string(line) + ": " + text};
    }
    ggml_abort(file, line, "%s", text);
    std::abort();
}

PLUGIN_EXPORT int llama_cpp_boundary(const llama_cpp_hooks * hooks) {
    if (hooks->version == LLAMA_CPP_BOUNDARY) {
        core = *hooks;
    }
    return LLAMA_CPP_BOUNDARY;
}

extern "C" ggml_backend_reg_t llama_cpp_plugin_init(void);

// The plugin's registration, with each of its devices, or null where one fails: ggml keeps what it is given here (ggml-backend-reg.cpp).
PLUGIN_EXPORT ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg_t made = []() -> ggml_backend_reg_t {
        ggml_backend_reg_t reg = nullptr;
        const bool done = caught([&] {
            reg = llama_cpp_plugin_init();
            if (!reg || reg->api_version != GGML_BACKEND_API_VERSION) {
                return;  // ggml says so
            }
            plugin_proc_address = reg->iface.get_proc_address;
            for (size_t i = 0, n = reg->iface.get_device_count(reg); i < n; ++i) {
                ggml_backend_dev_t one = reg->iface.get_device(reg, i);
                if (!one) {
                    throw std::runtime_error("the plugin counts more devices than it has");
                }
                adopt(one, 0);
                devices.push_back(one);
            }
            registered = reg;
            replace(reg->iface);
        });
        return done ? reg : nullptr;
    }();
    return made;
}
