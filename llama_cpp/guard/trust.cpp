#include "trust.hpp"

#include "failures.hpp"
#include "ggml-alloc.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#ifdef __GLIBC__
#include <unistd.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace {

using Devices = std::vector<ggml_backend_dev_t>;

// --- the trial ------------------------------------------------------------------------------------------------------------------

constexpr int LENGTH = 64;

// The sum of two rows, scaled to a mean square of 1: kernels of which the second has threads wait for each other. Nearly every model has both,
// so that what a driver compiles here is not compiled again. (A product of matrices, in its place, took lavapipe 5 seconds.)
// tests/plugins/failing_cuda.c, which computes nothing, knows the result.
int one(int i) { return i % 7 - 3; }
int other(int i) { return i % 3; }

void compute(ggml_backend_t backend, ggml_backend_dev_t device) {
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(
        ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead_custom(8, false), nullptr, true}), ggml_free);
    ggml_tensor * const first = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, LENGTH);
    ggml_tensor * const second = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, LENGTH);
    ggml_tensor * const sum = ggml_add(context.get(), first, second);
    ggml_tensor * const norm = ggml_rms_norm(context.get(), sum, 0);
    ggml_cgraph * const graph = ggml_new_graph_custom(context.get(), 8, false);
    ggml_build_forward_expand(graph, norm);
    if (!ggml_backend_dev_supports_op(device, sum) || !ggml_backend_dev_supports_op(device, norm)) {
        return;  // a device of another kind: that it could be made has to do
    }
    ggml_backend_buffer_t const buffer = ggml_backend_alloc_ctx_tensors(context.get(), backend);
    if (!buffer) {
        throw std::runtime_error("it has no memory left");
    }
    std::vector<float> left(LENGTH), right(LENGTH), found(LENGTH), expected(LENGTH);
    float squares = 0;
    for (int i = 0; i < LENGTH; ++i) {
        left[i] = static_cast<float>(one(i));
        right[i] = static_cast<float>(other(i));
        expected[i] = left[i] + right[i];
        squares += expected[i] * expected[i];
    }
    ggml_backend_tensor_set(first, left.data(), 0, ggml_nbytes(first));
    ggml_backend_tensor_set(second, right.data(), 0, ggml_nbytes(second));
    const std::vector<float> nothing(LENGTH, NAN);  // the memory may have the result of another trial
    ggml_backend_tensor_set(norm, nothing.data(), 0, ggml_nbytes(norm));
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        throw std::runtime_error("it cannot compute");
    }
    ggml_backend_tensor_get(norm, found.data(), 0, ggml_nbytes(norm));
    for (int i = 0; i < LENGTH; ++i) {
        const float right_one = expected[i] / std::sqrt(squares / LENGTH);
        if (!(std::fabs(found[i] - right_one) < 0.02f)) {  // three decimal digits, as 16 bits have them; and no NaN
            throw std::runtime_error("it computes wrongly: " + std::to_string(found[i]) + " instead of " + std::to_string(right_one));
        }
    }
    if (!llama_cpp_guard_hooks()->failing()) {
        ggml_backend_buffer_free(buffer);  // of a device that failed, everything is left where it is: to give it back may fail, too
    }
}

// Keeps ggml's error messages, which have the reason that an abort lacks (ggml-cuda.cu, ggml_cuda_error): the lines that are not indented.
struct Log {
    Log() {
#ifndef LLAMA_CPP_NO_LOG_GET
        ggml_log_get(&before, &data);
        ggml_log_set(keep, this);
#endif
    }
    ~Log() {
#ifndef LLAMA_CPP_NO_LOG_GET
        ggml_log_set(before, data);
#endif
    }
    Log(const Log &) = delete;
    Log & operator=(const Log &) = delete;

    static void keep(ggml_log_level level, const char * text, void * self) {
        Log & log = *static_cast<Log *>(self);
        if (std::this_thread::get_id() != log.thread) {
            log.before(level, text, log.data);
        } else if (level == GGML_LOG_LEVEL_ERROR && *text != ' ') {
            log.error += (log.error.empty() ? "" : "; ") + std::string(text);
            log.error.erase(log.error.find_last_not_of(" \n") + 1);
        }
    }

    ggml_log_callback before = nullptr;
    void * data = nullptr;
    const std::thread::id thread = std::this_thread::get_id();
    std::string error;
};

// Runs `call` as a trial in a thread of its own, where CUDA's last error and current device stay. Returns why it failed, or nothing.
template <typename Call> std::string apart(Call call) {
    std::string reason;
    const auto trial = [&] {
        const Log log;
        reason = guard::why_not(call);
        const size_t last = reason.rfind(": ");
        const std::string cause = last == std::string::npos ? reason : reason.substr(last + 2);
        if (!reason.empty() && !log.error.empty()) {
            reason = log.error.find(cause) == std::string::npos ? log.error + "; " + reason : log.error;
        }
    };
    try {
        std::thread(trial).join();
    } catch (const std::system_error & error) {  // a limit of threads
        return std::string("its trial cannot be started: ") + error.what();
    }
    return reason;
}

// Makes the device and lets it compute. Returns why it cannot, or nothing.
std::string attempt(ggml_backend_dev_t device) {
    const std::string reason = apart([&] {
        ggml_backend_t const backend = ggml_backend_dev_init(device, nullptr);
        if (!backend) {
            throw std::runtime_error("it cannot be initialised");
        }
        compute(backend, device);
        if (!llama_cpp_guard_hooks()->failing()) {
            ggml_backend_free(backend);
        }
    });
    if (reason.empty()) {
        return reason;
    }
#ifdef __GLIBC__
    // ggml-vulkan keeps a device that failed half-made and destroys it at exit, and dies of that. So the process leaves without that
    // destructor, with the status that it has, which nothing else tells a handler.
    static const int once = on_exit([](int status, void *) { std::fflush(nullptr); _exit(status); }, nullptr);
    (void) once;
#endif
    return reason;
}

// --- what is known ---------------------------------------------------------------------------------------------------------------

std::mutex mutex;
std::map<ggml_backend_dev_t, std::string> results;  // empty: trusted
std::vector<ggml_backend_dev_t> refused;            // in the order in which they were asked

#ifndef _WIN32
// Another thread of the parent may have held it.
const int renewed = pthread_atfork(nullptr, nullptr, [] { new (&mutex) std::mutex; });
#endif

bool is_server(ggml_backend_dev_t device) {
    ggml_backend_reg_t const plugin = ggml_backend_dev_backend_reg(device);
    return plugin && !std::strcmp(ggml_backend_reg_name(plugin), "RPC");
}

bool is_gpu(ggml_backend_dev_t device) { return ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU; }

bool is_integrated(ggml_backend_dev_t device) {
#ifdef LLAMA_CPP_NO_IGPU
    (void) device;
    return false;
#else
    return ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_IGPU;
#endif
}

// With `mutex` held.
const char * error_of(ggml_backend_dev_t device, bool ask = true) {
    auto found = results.find(device);
    if (found == results.end()) {
        if (!ask || is_server(device) || !(is_gpu(device) || is_integrated(device))) {
            return nullptr;
        }
        found = results.emplace(device, attempt(device)).first;
        if (!found->second.empty()) {
            refused.push_back(device);
        }
    }
    return found->second.empty() ? nullptr : found->second.c_str();
}

const char * refusal(ggml_backend_dev_t device) {
    thread_local std::string text;
    text = std::string(ggml_backend_dev_name(device)) + " (" + ggml_backend_dev_description(device) + ") cannot be used: " + error_of(device);
    return text.c_str();
}

// --- the choice ------------------------------------------------------------------------------------------------------------------

// What a model is given lives as long as the process: llama.cpp keeps the pointer.
template <typename T> T * kept(std::vector<T> values) {
    static std::set<std::vector<T>> all;
    return const_cast<T *>(all.insert(std::move(values)).first->data());
}

// The id of the hardware; "" where it has none, or this llama.cpp knows none.
template <typename P> auto id_of(const P & props, int) -> decltype(std::string(props.device_id)) { return props.device_id ? props.device_id : ""; }
template <typename P> std::string id_of(const P &, long) { return ""; }

// Is this the GPU of one in the list, by another plugin? Within a plugin each is there once, so that a single plugin's devices are not
// asked for their properties, which would open them.
bool is_twin(ggml_backend_dev_t device, const Devices & among) {
    const auto id = [](ggml_backend_dev_t one) {
        std::string found;
        apart([&] {  // to ask may fail
            ggml_backend_dev_props props{};
            ggml_backend_dev_get_props(one, &props);
            found = id_of(props, 0);
        });
        return found;
    };
    return std::any_of(among.begin(), among.end(), [&](ggml_backend_dev_t one) {
        return ggml_backend_dev_backend_reg(one) != ggml_backend_dev_backend_reg(device) && !id(one).empty() && id(one) == id(device);
    });
}

// llama.cpp's own choice where the user names no devices (src/llama.cpp, llama_prepare_model_devices), of those that `take` takes. It is asked
// of no device that would not be used.
template <typename Take> Devices choice(bool tensors, Take take) {
    Devices servers, gpus, integrated;
    const size_t count = ggml_backend_dev_count();
    for (size_t i = 0; i < count; ++i) {
        ggml_backend_dev_t const device = ggml_backend_dev_get(i);
        if (tensors) {  // whatever has memory of its own
            if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU && take(device) &&
                ggml_backend_dev_buffer_type(device) != ggml_backend_cpu_buffer_type()) {
                gpus.push_back(device);
            }
        } else if (is_gpu(device) && is_server(device)) {
            servers.push_back(device);
        } else if (is_gpu(device) && !is_twin(device, gpus) && take(device)) {
            gpus.push_back(device);
        }
    }
    for (size_t i = 0; i < count && gpus.empty(); ++i) {
        ggml_backend_dev_t const device = ggml_backend_dev_get(i);
        const auto plugin = ggml_backend_dev_backend_reg;
        if (is_integrated(device) && (integrated.empty() || plugin(device) == plugin(integrated.back())) && take(device)) {
            integrated.push_back(device);
        }
    }
    for (const Devices * list : {&gpus, &integrated}) {
        servers.insert(servers.end(), list->begin(), list->end());
    }
    return servers;
}

// Shares of the devices that are left, from those of all; null where they say nothing of these. Returns false where every share is of a
// device that is not left.
bool share(const float *& shares, const Devices & all, const Devices & left) {
    std::vector<float> ours(llama_max_devices());
    bool any = false, given = false;
    for (size_t i = 0; shares && i < all.size() && i < ours.size(); ++i) {
        const auto at = std::find(left.begin(), left.end(), all[i]);
        any = any || shares[i] != 0;
        if (at != left.end()) {
            ours[at - left.begin()] = shares[i];
            given = given || shares[i] != 0;
        }
    }
    shares = given ? kept(std::move(ours)) : nullptr;
    return given || !any;
}

Devices ended(Devices devices) {
    devices.push_back(nullptr);
    return devices;
}

const char * chosen(llama_model_params & params) {
    const bool single = params.split_mode == LLAMA_SPLIT_MODE_NONE;
    const bool tensors = params.split_mode == 3;  // LLAMA_SPLIT_MODE_TENSOR, where there is that
    const bool offloads = params.n_gpu_layers != 0;
    const auto trusted = [](ggml_backend_dev_t device) { return !error_of(device); };
    const auto any = [](ggml_backend_dev_t) { return true; };

    Devices named;
    if (params.devices) {
        for (ggml_backend_dev_t * device = params.devices; *device; ++device) {
            named.push_back(*device);
        }
    } else if (single) {
        named = choice(false, any);
        if (named.empty()) {
            named = refused;  // whose plugins were given up
        }
    }
    if (single && params.main_gpu >= 0 && !named.empty()) {
        if (static_cast<size_t>(params.main_gpu) >= named.size()) {
            return nullptr;  // llama.cpp says so
        }
        named = {named[params.main_gpu]};
        params.main_gpu = 0;
    } else if (single) {
        named.clear();
    }
    if (params.devices || single) {
        Devices left;
        for (ggml_backend_dev_t device : named) {
            if (trusted(device)) {
                left.push_back(device);
            } else if (offloads) {
                return refusal(device);
            }
        }
        params.devices = kept(ended(left));
        return nullptr;
    }

    const Devices left = choice(tensors, trusted);
    const Devices all = choice(tensors, any);
    if (std::all_of(all.begin(), all.end(), [](ggml_backend_dev_t device) { return !error_of(device, false); })) {
        return nullptr;  // llama.cpp's choice is ours
    }
    if (!share(params.tensor_split, all, left) && offloads) {
        return refusal(*std::find_if(all.begin(), all.end(), [](ggml_backend_dev_t device) { return error_of(device, false); }));
    }
    if (params.split_mode == LLAMA_SPLIT_MODE_ROW) {
        params.split_mode = LLAMA_SPLIT_MODE_LAYER;  // ggml-cuda splits rows over every device that it has (ggml_cuda_info)
    }
    params.devices = kept(ended(left));
    return nullptr;
}

}  // namespace

const char * llama_cpp_trust_error(ggml_backend_dev_t device, bool ask) {
    const std::lock_guard<std::mutex> lock(mutex);
    return error_of(device, ask && !llama_cpp_guard_lost());
}

const char * llama_cpp_trust_model(llama_model_params * params) {
    const std::lock_guard<std::mutex> lock(mutex);
    return params->vocab_only || llama_cpp_guard_lost() ? nullptr : chosen(*params);
}

const char * llama_cpp_trust_projector(ggml_backend_dev_t * device) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (llama_cpp_guard_lost()) {
        return nullptr;
    }
    if (*device) {
        return error_of(*device) ? refusal(*device) : nullptr;
    }
    for (const auto kind : {is_gpu, is_integrated}) {  // as tools/mtmd/clip.cpp takes them
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            ggml_backend_dev_t const one = ggml_backend_dev_get(i);
            if (kind(one) && !error_of(one)) {
                *device = one;
                return nullptr;
            }
        }
    }
    return nullptr;
}
