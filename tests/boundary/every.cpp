// Calls every function of a plugin through the pointers that the core has, while each of them fails in each way, and looks at what the
// caller gets and what the core is told. Prints what is wrong; exit code 1 if anything is.
//
// every PLUGIN [PLUGIN]: the second one is another copy, with a core of its own, used at the same time.
#include "ggml-backend-impl.h"
#include "ggml.h"

#include "boundary.h"
#include "control.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

Control control{};
std::atomic<int> mistakes{0};

void wrong(const std::string & what) {
    std::printf("%s\n", what.c_str());
    ++mistakes;
}

// A core's side, as llama_cpp/guard has it; two of them.
struct Told {
    int times = 0, gave_up = 0;
    bool failing = false;
    std::string why;
};
template <int N> Told & told() {
    static thread_local Told one;
    return one;
}
template <int N> void failed(const char * why, int gave_up) {
    Told & t = told<N>();
    ++t.times;
    t.gave_up += gave_up;
    t.failing = true;
    t.why = why;
}
template <int N> int failing() { return told<N>().failing; }

template <int N> ggml_backend_reg_t load(const char * path) {
    static const llama_cpp_hooks hooks = {LLAMA_CPP_BOUNDARY, failed<N>, failing<N>};
    void * library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        wrong(dlerror());
        std::exit(1);
    }
    llama_cpp_hooks other = hooks;
    other.version = 0;
    const auto boundary = reinterpret_cast<llama_cpp_boundary_t>(dlsym(library, "llama_cpp_boundary"));
    if (boundary(&other) != LLAMA_CPP_BOUNDARY || boundary(&hooks) != LLAMA_CPP_BOUNDARY) wrong("the boundary says another version");
    if (dlsym(library, "llama_cpp_plugin_abort") || dlsym(library, "llama_cpp_plugin_init")) wrong("the plugin exports what is its own");
    return reinterpret_cast<ggml_backend_init_t>(dlsym(library, "ggml_backend_init"))();
}

void order(const char * function, int how) {
    std::snprintf(control.function, sizeof control.function, "%s", function);
    control.how = how;
    control.hits = 0;
}

// One function: its name, how it is called (true: the caller gets what means failure), and whether it is left alone while a failure is
// under way.
struct Case {
    const char * name;
    std::function<bool()> call;
    bool computes;
};

template <typename F> F proc(ggml_backend_reg_t reg, const char * name) { return reinterpret_cast<F>(ggml_backend_reg_get_proc_address(reg, name)); }

template <int N> void try_all(ggml_backend_reg_t reg) {
    Told & t = told<N>();
    ggml_backend_dev_t dev = ggml_backend_reg_dev_get(reg, 0);
    ggml_backend_t backend = ggml_backend_dev_init(dev, nullptr);
    ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(dev);
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, 4096);
    ggml_context * context = ggml_init({1 << 16, nullptr, true});
    ggml_tensor * tensor = ggml_new_tensor_1d(context, GGML_TYPE_F32, 16);
    tensor->buffer = buffer;
    tensor->data = ggml_backend_buffer_get_base(buffer);
    ggml_backend_event event = {dev, nullptr};
    float data[64] = {1};
    const auto & B = backend->iface;
    const auto & D = dev->iface;
    const auto & T = type->iface;
    const auto & U = buffer->iface;
    const auto zero = [&] { return data[0] == 0 && data[15] == 0; };

    const std::vector<Case> cases = {
        {"type.alloc_buffer", [&] { return T.alloc_buffer(type, 64) == nullptr; }, false},
        {"type.get_alignment", [&] { const size_t a = T.get_alignment(type); return a && !(a & (a - 1)); }, false},
        {"type.get_max_size", [&] { return T.get_max_size(type) == SIZE_MAX; }, false},
        {"type.get_alloc_size", [&] { return T.get_alloc_size(type, tensor) == 64; }, false},
        {"type.is_host", [&] { return !T.is_host(type); }, false},
        {"buffer.get_base", [&] { return U.get_base(buffer) != nullptr; }, true},
        {"buffer.init_tensor", [&] { return U.init_tensor(buffer, tensor) == GGML_STATUS_FAILED; }, true},
        {"buffer.memset_tensor", [&] { U.memset_tensor(buffer, tensor, 1, 0, 64); return true; }, true},
        {"buffer.set_tensor", [&] { U.set_tensor(buffer, tensor, data, 0, 64); return true; }, true},
        {"buffer.get_tensor", [&] { data[0] = data[15] = 1; U.get_tensor(buffer, tensor, data, 0, 64); return zero(); }, true},
        {"buffer.set_tensor_2d", [&] { U.set_tensor_2d(buffer, tensor, data, 0, 32, 2, 32, 32); return true; }, true},
        {"buffer.get_tensor_2d", [&] { data[0] = data[15] = 1; U.get_tensor_2d(buffer, tensor, data, 0, 32, 2, 32, 32); return zero(); }, true},
        {"buffer.cpy_tensor", [&] { return !U.cpy_tensor(buffer, tensor, tensor); }, true},
        {"buffer.clear", [&] { U.clear(buffer, 0); return true; }, true},
        {"buffer.reset", [&] { U.reset(buffer); return true; }, true},
        {"backend.free", [&] { ggml_backend_t one = D.init_backend(dev, nullptr); one->iface.free(one); return true; }, false},
        {"backend.set_tensor_async", [&] { B.set_tensor_async(backend, tensor, data, 0, 64); return true; }, true},
        {"backend.get_tensor_async", [&] { data[0] = data[15] = 1; B.get_tensor_async(backend, tensor, data, 0, 64); return zero(); }, true},
        {"backend.set_tensor_2d_async", [&] { B.set_tensor_2d_async(backend, tensor, data, 0, 32, 2, 32, 32); return true; }, true},
        {"backend.get_tensor_2d_async", [&] { data[0] = data[15] = 1; B.get_tensor_2d_async(backend, tensor, data, 0, 32, 2, 32, 32); return zero(); }, true},
        {"backend.cpy_tensor_async", [&] { return !B.cpy_tensor_async(backend, backend, tensor, tensor); }, true},
        {"backend.synchronize", [&] { B.synchronize(backend); return true; }, true},
        {"backend.graph_plan_create", [&] { return B.graph_plan_create(backend, nullptr) == nullptr; }, true},
        {"backend.graph_plan_free", [&] { B.graph_plan_free(backend, nullptr); return true; }, false},
        {"backend.graph_plan_update", [&] { B.graph_plan_update(backend, nullptr, nullptr); return true; }, true},
        {"backend.graph_plan_compute", [&] { return B.graph_plan_compute(backend, nullptr) == GGML_STATUS_FAILED; }, true},
        {"backend.graph_compute", [&] { return B.graph_compute(backend, nullptr) == GGML_STATUS_FAILED; }, true},
        {"backend.event_record", [&] { B.event_record(backend, &event); return true; }, true},
        {"backend.event_wait", [&] { B.event_wait(backend, &event); return true; }, true},
        {"backend.graph_optimize", [&] { B.graph_optimize(backend, nullptr, nullptr); return true; }, true},
        {"device.get_description", [&] { return !std::strcmp(D.get_description(dev), "unknown"); }, false},
        {"device.get_memory", [&] { size_t f = 1, a = 1; D.get_memory(dev, &f, &a); return !f && !a; }, false},
        {"device.get_type", [&] { return D.get_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU; }, false},
        {"device.get_props", [&] { ggml_backend_dev_props p; D.get_props(dev, &p); return !std::strcmp(p.name, "Fake0") && !std::strcmp(p.description, "unknown"); }, false},
        {"device.init_backend", [&] { return D.init_backend(dev, nullptr) == nullptr; }, false},
        {"device.get_buffer_type", [&] { return D.get_buffer_type(dev) == ggml_backend_cpu_buffer_type(); }, false},
        {"device.get_host_buffer_type", [&] { return D.get_host_buffer_type(dev) == nullptr; }, false},
        {"device.buffer_from_host_ptr", [&] { return D.buffer_from_host_ptr(dev, data, 64, 64) == nullptr; }, false},
        {"device.supports_op", [&] { return D.supports_op(dev, nullptr); }, false},
        {"device.supports_buft", [&] { return D.supports_buft(dev, type); }, false},
        {"device.offload_op", [&] { return !D.offload_op(dev, nullptr); }, false},
        {"device.event_new", [&] { return D.event_new(dev) == nullptr; }, false},
        {"device.event_free", [&] { D.event_free(dev, nullptr); return true; }, false},
        {"device.event_synchronize", [&] { D.event_synchronize(dev, &event); return true; }, false},
        {"reg.get_proc_address", [&] { return proc<void *>(reg, "ggml_backend_comm_init") == nullptr; }, false},
        {"proc.ggml_backend_split_buffer_type", [&] { return proc<ggml_backend_buffer_type_t (*)(int, const float *)>(reg, "ggml_backend_split_buffer_type")(0, nullptr) == nullptr; }, false},
        {"proc.ggml_backend_comm_init", [&] { return proc<void * (*)(ggml_backend_t *, size_t)>(reg, "ggml_backend_comm_init")(nullptr, 0) == nullptr; }, false},
        {"proc.ggml_backend_comm_free", [&] { proc<void (*)(void *)>(reg, "ggml_backend_comm_free")(nullptr); return true; }, false},
        {"proc.ggml_backend_comm_allreduce_tensor", [&] { return !proc<bool (*)(void *, ggml_tensor **)>(reg, "ggml_backend_comm_allreduce_tensor")(nullptr, nullptr); }, false},
        {"proc.ggml_backend_register_host_buffer", [&] { return !proc<bool (*)(void *, size_t)>(reg, "ggml_backend_register_host_buffer")(nullptr, 0); }, false},
        {"proc.ggml_backend_unregister_host_buffer", [&] { proc<void (*)(void *)>(reg, "ggml_backend_unregister_host_buffer")(nullptr); return true; }, false},
        {"proc.ggml_backend_get_features", [&] { return proc<ggml_backend_feature * (*)(ggml_backend_reg_t)>(reg, "ggml_backend_get_features")(reg)->name == nullptr; }, false},
        {"proc.ggml_backend_set_n_threads", [&] { proc<void (*)(ggml_backend_t, int)>(reg, "ggml_backend_set_n_threads")(backend, 1); return true; }, false},
        {"proc.ggml_backend_set_abort_callback", [&] { proc<void (*)(ggml_backend_t, ggml_abort_callback, void *)>(reg, "ggml_backend_set_abort_callback")(backend, nullptr, nullptr); return true; }, false},
    };
    for (const Case & one : cases) {
        for (const int how : {THROW, THROW_INT, ABORT}) {
            const std::string what = std::string(one.name) + ", way " + std::to_string(how) + ": ";
            t = {};
            order(one.name, how);
            if (!one.call()) wrong(what + "the caller does not get what means failure");
            if (control.hits != 1) wrong(what + "called " + std::to_string(control.hits) + " times");
            if (t.times != 1) wrong(what + "told " + std::to_string(t.times) + " times");
            if (t.gave_up != (how == ABORT)) wrong(what + "whether it gave up is not told");
            if (t.why.find(how == THROW_INT ? "unknown exception" : one.name) == std::string::npos) wrong(what + "the reason is " + t.why);
            if (how == ABORT && t.why.find("fake.cpp:") == std::string::npos) wrong(what + "the place is not told: " + t.why);
            one.call();  // while it is failing
            if ((control.hits == 1) != one.computes) wrong(what + "asked while a failure is under way, or not");
            order("", NOTHING);
            t = {};
            one.call();
            if (t.times) wrong(what + "fails afterwards, too: " + t.why);
        }
    }
    // What a plugin returns that the core does not survive is a failure as well.
    for (const char * name : {"type.get_alignment", "buffer.get_base", "device.get_description", "device.get_buffer_type"}) {
        t = {};
        order(name, LIE);
        for (const Case & one : cases) {
            if (!std::strcmp(one.name, name) && !one.call()) wrong(std::string(name) + ": a lie is passed on");
        }
        if (t.times != 1) wrong(std::string(name) + ": a lie is not told");
    }
    // What was counted when the plugin was loaded counts.
    for (const int how : {THROW, ABORT, LIE}) {
        t = {};
        order("reg.get_device", how);
        if (ggml_backend_reg_dev_get(reg, 0) != dev) wrong("the device is another one");
        order("reg.get_device_count", how);
        if (ggml_backend_reg_dev_count(reg) != 1) wrong("the number of devices is another one");
        if (t.times) wrong("the devices are counted again");
    }
    order("", NOTHING);
    t = {};
    if (ggml_backend_reg_get_proc_address(reg, "ggml_backend_nobody_knows")) wrong("a function that nobody has wrapped is given away");
    std::strcpy(control.without, "ggml_backend_comm_init");
    if (ggml_backend_reg_get_proc_address(reg, "ggml_backend_comm_init")) wrong("a function that the plugin has not is given away");
    control.without[0] = 0;
    ggml_backend_buffer_free(buffer);
    ggml_backend_free(backend);
    ggml_free(context);
}

// Failures in many threads: each is told in its own.
template <int N> void in_threads(ggml_backend_reg_t reg) {
    order("backend.graph_compute", THROW);
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([reg] {
            ggml_backend_t backend = ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), nullptr);
            for (int k = 0; k < 1000; ++k) {
                told<N>() = {};
                if (backend->iface.graph_compute(backend, nullptr) != GGML_STATUS_FAILED || told<N>().times != 1) wrong("a failure in a thread is lost");
            }
            told<N>() = {};
            ggml_backend_free(backend);
        });
    }
    for (std::thread & thread : threads) thread.join();
    order("", NOTHING);
}

}  // namespace

int main(int count, char ** arguments) {
    char address[32];
    std::snprintf(address, sizeof address, "%p", static_cast<void *>(&control));
    setenv("FAKE_CONTROL", address, 1);
    ggml_backend_reg_t one = load<1>(arguments[1]);
    ggml_backend_reg_t two = count > 2 ? load<2>(arguments[2]) : nullptr;
    if (!one || (count > 2 && !two)) {
        wrong("the plugin has no registration");
        return 1;
    }
    try_all<1>(one);
    if (two) {
        if (told<2>().times) wrong("the other core was told");
        try_all<2>(two);
        try_all<1>(one);
    }
    in_threads<1>(one);
    std::fflush(stdout);
    if (const pid_t child = fork()) {
        int status = 0;
        waitpid(child, &status, 0);
        if (status) wrong("in a forked child it is otherwise");
    } else {
        try_all<1>(one);
        in_threads<1>(one);
        std::fflush(stdout);
        _exit(mistakes != 0);
    }
    std::printf("%d mistakes\n", mistakes.load());
    return mistakes != 0;
}
