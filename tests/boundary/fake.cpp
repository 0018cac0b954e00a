// A plugin whose device computes on the CPU, and in which every function fails when it is told to.
//
// FAKE_CONTROL: address (hexadecimal) of a Control. FAKE_CPU: path of ggml's CPU plugin, which computes; without it, nothing is computed.
// FAKE_DEVICES: how many devices there are, 1 without it.
#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#include "control.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <stdexcept>
#include <string>
#include <unistd.h>

namespace {

Control * control() {
    static Control * const found = reinterpret_cast<Control *>(std::strtoull(std::getenv("FAKE_CONTROL"), nullptr, 16));
    return found;
}

size_t index_of(ggml_backend_dev_t device) { return reinterpret_cast<size_t>(device->context); }

size_t count() {
    const char * const text = std::getenv("FAKE_DEVICES");
    return text ? std::strtoul(text, nullptr, 10) : 1;
}

// The beginning of every function: fails, if this is the one. True where it is to lie.
bool act(const char * name, ggml_backend_dev_t asked = nullptr) {
    Control * const c = control();
    if (std::strcmp(c->function, name) != 0 || c->how == NOTHING || (asked && index_of(asked) != static_cast<size_t>(c->device))) {
        return false;
    }
    ++c->hits;
    switch (c->how) {
        case THROW: throw std::runtime_error(std::string("fake failure of ") + name);
        case THROW_INT: throw 7;
        case ABORT: GGML_ABORT("fake failure of %s", name);
        case HANG: for (;;) pause();
        default: return true;
    }
}

ggml_backend_t cpu() {
    static ggml_backend_t made = []() -> ggml_backend_t {
        const char * path = std::getenv("FAKE_CPU");
        void * library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (!library) {
            return nullptr;
        }
        ggml_backend_reg_t reg = reinterpret_cast<ggml_backend_init_t>(dlsym(library, "ggml_backend_init"))();
        return ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), nullptr);
    }();
    return made;
}

ggml_backend_dev_t device(size_t index);
ggml_backend_buffer_type_t type(ggml_backend_dev_t device);

// --- buffers
char * base(ggml_backend_buffer_t b) { return static_cast<char *>(b->context); }

void free_buffer(ggml_backend_buffer_t b) { std::free(b->context); }
void * get_base(ggml_backend_buffer_t b) { return act("buffer.get_base") ? nullptr : base(b); }
ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor *) { return act("buffer.init_tensor") ? GGML_STATUS_ALLOC_FAILED : GGML_STATUS_SUCCESS; }
void memset_tensor(ggml_backend_buffer_t, ggml_tensor * t, uint8_t v, size_t o, size_t n) { act("buffer.memset_tensor"); std::memset(static_cast<char *>(t->data) + o, v, n); }
void set_tensor(ggml_backend_buffer_t, ggml_tensor * t, const void * d, size_t o, size_t n) { act("buffer.set_tensor"); std::memcpy(static_cast<char *>(t->data) + o, d, n); }
void get_tensor(ggml_backend_buffer_t, const ggml_tensor * t, void * d, size_t o, size_t n) { act("buffer.get_tensor"); std::memcpy(d, static_cast<const char *>(t->data) + o, n); }
void set_tensor_2d(ggml_backend_buffer_t, ggml_tensor * t, const void * d, size_t o, size_t n, size_t k, size_t st, size_t sd) {
    act("buffer.set_tensor_2d");
    for (size_t i = 0; i < k; ++i) std::memcpy(static_cast<char *>(t->data) + o + i * st, static_cast<const char *>(d) + i * sd, n);
}
void get_tensor_2d(ggml_backend_buffer_t, const ggml_tensor * t, void * d, size_t o, size_t n, size_t k, size_t st, size_t sd) {
    act("buffer.get_tensor_2d");
    for (size_t i = 0; i < k; ++i) std::memcpy(static_cast<char *>(d) + i * sd, static_cast<const char *>(t->data) + o + i * st, n);
}
bool cpy_tensor(ggml_backend_buffer_t, const ggml_tensor *, ggml_tensor *) { act("buffer.cpy_tensor"); return false; }
void clear(ggml_backend_buffer_t b, uint8_t v) { act("buffer.clear"); std::memset(b->context, v, b->size); }
void reset(ggml_backend_buffer_t) { act("buffer.reset"); }
const ggml_backend_buffer_i buffer_i = {free_buffer, get_base, init_tensor, memset_tensor, set_tensor, get_tensor, set_tensor_2d, get_tensor_2d, cpy_tensor, clear, reset};

// --- their type
const char * type_name(ggml_backend_buffer_type_t) { return "Fake"; }
ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t t, size_t n) {
    void * const memory = act("type.alloc_buffer") ? nullptr : std::aligned_alloc(64, (n + 64) / 64 * 64);
    return memory ? ggml_backend_buffer_init(t, buffer_i, memory, n) : nullptr;
}
size_t get_alignment(ggml_backend_buffer_type_t) { return act("type.get_alignment") ? 0 : 64; }
size_t get_max_size(ggml_backend_buffer_type_t) { act("type.get_max_size"); return SIZE_MAX; }
size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * t) { act("type.get_alloc_size"); return ggml_nbytes(t); }
bool is_host(ggml_backend_buffer_type_t) { return act("type.is_host"); }

// --- the backend
ggml_guid guid = {0x66, 0x61, 0x6b, 0x65};
const char * device_name(ggml_backend_dev_t d) {
    static const char * const names[] = {"Fake0", "Fake1", "Fake2", "Fake3"};
    return names[index_of(d)];
}
const char * backend_name(ggml_backend_t b) { return device_name(ggml_backend_get_device(b)); }
void backend_free(ggml_backend_t b) { act("backend.free"); delete b; }
void set_async(ggml_backend_t, ggml_tensor * t, const void * d, size_t o, size_t n) { act("backend.set_tensor_async"); std::memcpy(static_cast<char *>(t->data) + o, d, n); }
void get_async(ggml_backend_t, const ggml_tensor * t, void * d, size_t o, size_t n) { act("backend.get_tensor_async"); std::memcpy(d, static_cast<const char *>(t->data) + o, n); }
void set_2d_async(ggml_backend_t, ggml_tensor * t, const void * d, size_t o, size_t n, size_t k, size_t st, size_t sd) { act("backend.set_tensor_2d_async"); set_tensor_2d(nullptr, t, d, o, n, k, st, sd); }
void get_2d_async(ggml_backend_t, const ggml_tensor * t, void * d, size_t o, size_t n, size_t k, size_t st, size_t sd) { act("backend.get_tensor_2d_async"); get_tensor_2d(nullptr, t, d, o, n, k, st, sd); }
bool cpy_async(ggml_backend_t, ggml_backend_t, const ggml_tensor *, ggml_tensor *) { act("backend.cpy_tensor_async"); return false; }
void synchronize(ggml_backend_t) { act("backend.synchronize"); }
ggml_backend_graph_plan_t plan_create(ggml_backend_t, const ggml_cgraph *) { act("backend.graph_plan_create"); return &guid; }
void plan_free(ggml_backend_t, ggml_backend_graph_plan_t) { act("backend.graph_plan_free"); }
void plan_update(ggml_backend_t, ggml_backend_graph_plan_t, const ggml_cgraph *) { act("backend.graph_plan_update"); }
ggml_status plan_compute(ggml_backend_t, ggml_backend_graph_plan_t) { act("backend.graph_plan_compute"); return GGML_STATUS_SUCCESS; }
ggml_status graph_compute(ggml_backend_t b, ggml_cgraph * g) {
    if (act("backend.graph_compute", ggml_backend_get_device(b))) return control()->how == WRONG ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
    return cpu() && g ? ggml_backend_graph_compute(cpu(), g) : GGML_STATUS_SUCCESS;
}
void event_record(ggml_backend_t, ggml_backend_event_t) { act("backend.event_record"); }
void event_wait(ggml_backend_t, ggml_backend_event_t) { act("backend.event_wait"); }
void graph_optimize(ggml_backend_t, ggml_cgraph *, ggml_backend_graph_optimize_params *) { act("backend.graph_optimize"); }
const ggml_backend_i backend_i = {backend_name, backend_free, set_async, get_async, set_2d_async, get_2d_async, cpy_async, synchronize, plan_create, plan_free, plan_update, plan_compute, graph_compute, event_record, event_wait, graph_optimize};

// --- the device
const char * get_description(ggml_backend_dev_t) { return act("device.get_description") ? nullptr : "a device that fails"; }
void get_memory(ggml_backend_dev_t, size_t * f, size_t * t) { act("device.get_memory"); *f = *t = size_t(8) << 30; }
enum ggml_backend_dev_type get_type(ggml_backend_dev_t) { act("device.get_type"); return GGML_BACKEND_DEVICE_TYPE_GPU; }
void get_props(ggml_backend_dev_t d, ggml_backend_dev_props * p) {
    act("device.get_props");
    p->name = device_name(d);
    p->description = "a device that fails";
    p->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    p->memory_free = p->memory_total = size_t(8) << 30;
    p->caps = {};
    p->caps.async = p->caps.events = true;
}
ggml_backend_t init_backend(ggml_backend_dev_t d, const char *) {
    control()->opened |= 1 << index_of(d);
    return act("device.init_backend", d) ? nullptr : new ggml_backend{&guid, backend_i, d, nullptr};
}
ggml_backend_buffer_type_t get_buffer_type(ggml_backend_dev_t d) { return act("device.get_buffer_type") ? nullptr : type(d); }
ggml_backend_buffer_type_t get_host_buffer_type(ggml_backend_dev_t) { act("device.get_host_buffer_type"); return nullptr; }
ggml_backend_buffer_t from_ptr(ggml_backend_dev_t, void *, size_t, size_t) { act("device.buffer_from_host_ptr"); return nullptr; }
bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    if (act("device.supports_op")) return false;
    return !cpu() || !op || ggml_backend_dev_supports_op(ggml_backend_get_device(cpu()), op);
}
bool supports_buft(ggml_backend_dev_t d, ggml_backend_buffer_type_t t) { return !act("device.supports_buft") && t == type(d); }
bool offload_op(ggml_backend_dev_t, const ggml_tensor *) { return act("device.offload_op"); }
ggml_backend_event_t event_new(ggml_backend_dev_t d) { act("device.event_new"); return new ggml_backend_event{d, nullptr}; }
void event_free(ggml_backend_dev_t, ggml_backend_event_t e) { act("device.event_free"); delete e; }
void event_synchronize(ggml_backend_dev_t, ggml_backend_event_t) { act("device.event_synchronize"); }

// --- the registration, and the functions behind it
const char * reg_name(ggml_backend_reg_t) { return "Fake"; }
size_t device_count(ggml_backend_reg_t) { return act("reg.get_device_count") ? count() + 2 : count(); }
ggml_backend_dev_t get_device(ggml_backend_reg_t, size_t i) { return act("reg.get_device") || i >= count() ? nullptr : device(i); }

ggml_backend_buffer_type_t split_type(int, const float *) { act("proc.ggml_backend_split_buffer_type"); return type(device(0)); }
void * comm_init(ggml_backend_t *, size_t) { act("proc.ggml_backend_comm_init"); return &guid; }
void comm_free(void *) { act("proc.ggml_backend_comm_free"); }
bool comm_allreduce(void *, ggml_tensor **) { act("proc.ggml_backend_comm_allreduce_tensor"); return true; }
bool register_host(void *, size_t) { act("proc.ggml_backend_register_host_buffer"); return true; }
void unregister_host(void *) { act("proc.ggml_backend_unregister_host_buffer"); }
ggml_backend_feature * features(ggml_backend_reg_t) { act("proc.ggml_backend_get_features"); static ggml_backend_feature all[] = {{"FAKE", "1"}, {nullptr, nullptr}}; return all; }
void set_threads(ggml_backend_t, int) { act("proc.ggml_backend_set_n_threads"); }
void set_abort(ggml_backend_t, ggml_abort_callback, void *) { act("proc.ggml_backend_set_abort_callback"); }
void unknown() {}

void * proc_address(ggml_backend_reg_t, const char * name) {
    act("reg.get_proc_address");
    const struct { const char * name; void * function; } all[] = {
        {"ggml_backend_split_buffer_type", reinterpret_cast<void *>(split_type)}, {"ggml_backend_comm_init", reinterpret_cast<void *>(comm_init)},
        {"ggml_backend_comm_free", reinterpret_cast<void *>(comm_free)}, {"ggml_backend_comm_allreduce_tensor", reinterpret_cast<void *>(comm_allreduce)},
        {"ggml_backend_register_host_buffer", reinterpret_cast<void *>(register_host)}, {"ggml_backend_unregister_host_buffer", reinterpret_cast<void *>(unregister_host)},
        {"ggml_backend_get_features", reinterpret_cast<void *>(features)}, {"ggml_backend_set_n_threads", reinterpret_cast<void *>(set_threads)},
        {"ggml_backend_set_abort_callback", reinterpret_cast<void *>(set_abort)}, {"ggml_backend_nobody_knows", reinterpret_cast<void *>(unknown)},
    };
    for (const auto & one : all) {
        if (!std::strcmp(name, one.name) && std::strcmp(control()->without, name)) return one.function;
    }
    return nullptr;
}

ggml_backend_reg reg = {GGML_BACKEND_API_VERSION, {reg_name, device_count, get_device, proc_address}, nullptr};
ggml_backend_dev_t device(size_t index) {
    static const ggml_backend_device_i device_i = {device_name, get_description, get_memory, get_type, get_props, init_backend, get_buffer_type, get_host_buffer_type, from_ptr, supports_op, supports_buft, offload_op, event_new, event_free, event_synchronize};
    static ggml_backend_device all[] = {{device_i, &reg, reinterpret_cast<void *>(0)}, {device_i, &reg, reinterpret_cast<void *>(1)}, {device_i, &reg, reinterpret_cast<void *>(2)}, {device_i, &reg, reinterpret_cast<void *>(3)}};
    return &all[index];
}
ggml_backend_buffer_type_t type(ggml_backend_dev_t d) {
    static const ggml_backend_buffer_type_i type_i = {type_name, alloc_buffer, get_alignment, get_max_size, get_alloc_size, is_host};
    static ggml_backend_buffer_type all[] = {{type_i, device(0), nullptr}, {type_i, device(1), nullptr}, {type_i, device(2), nullptr}, {type_i, device(3), nullptr}};
    return &all[index_of(d)];
}

ggml_backend_reg_t registration() {
    act("init");
    return &reg;
}

}  // namespace

GGML_BACKEND_DL_IMPL(registration)
