/* CUDA devices that compute nothing and fail on command: preloaded, they stand before NVIDIA's libraries of either major and
 * need no GPU. For the tests of what a failing GPU does to the process (tests/inference/test_gpu.py), never of what it computes.
 *
 * `failing_driver` (an exported int): 0 works; 1 the device cannot be asked for its properties; 2 the next kernel fails; 3 the next
 * synchronisation fails; 4 crashes, 5 hangs while devices are listed; 6 computes wrongly; 7 has no memory for a context. As with a real GPU,
 * a failure of 1, 2 or 3 sticks: every later call fails too, giving memory back included.
 * `failing_device` (an exported int): which one does, for 6 and 7; -1 each.
 * FAILING_DRIVER in the environment sets `failing_driver` from the start; DEVICE_ERROR is the error's text.
 * DEVICES: compute capabilities ("9.0 6.1", default "9.0"). A kernel starts where the plugin has machine code or PTX for the capability.
 * DEVICE_MEMORY (bytes, default 1 GiB) is what the device has. `opened` (exported) has a bit for each device with a context.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32 /* one DLL for each of NVIDIA's, each of this file; the first one's failing_driver counts */
#include <malloc.h>
#include <windows.h>
#define aligned_alloc(alignment, size) _aligned_malloc(size, alignment)
#define aligned_free _aligned_free
#define pause() Sleep(1000)
#else
#include <unistd.h>
#define aligned_free free
#endif

int failing_driver = 0;
int failing_device = -1;
int opened = 0;

__attribute__((constructor)) static void from_environment(void) {
    const char * text = getenv("FAILING_DRIVER");
    failing_driver = text ? atoi(text) : 0;
}

static int lost = 0;
static size_t used = 0;
static __thread int current = 0; /* device */
static __thread int last = 0;    /* error that does not stick */

enum { OK = 0, OUT_OF_MEMORY = 2, NO_KERNEL_IMAGE = 209, ILLEGAL_ADDRESS = 700 };

static int fails_here(int kind) { return failing_driver == kind && (failing_device < 0 || failing_device == current); }

static int status(int kind) {
    if (failing_driver && failing_driver == kind) {
        lost = ILLEGAL_ADDRESS;
    }
    return lost;
}

static size_t total(void) {
    const char * text = getenv("DEVICE_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t) 1 << 30;
}

/* -- the device -------------------------------------------------------------------------------------------------------------- */

static void put(void * base, size_t offset, int value) { memcpy((char *) base + offset, &value, sizeof value); }
static void put_size(void * base, size_t offset, size_t value) { memcpy((char *) base + offset, &value, sizeof value); }

/* Compute capability of a device, 90 for 9.0; 0 where there is no such device. */
static int capability(int device) {
    const char * text = getenv("DEVICES");
    for (text = text ? text : "9.0"; device > 0 && text; device--) {
        text = strchr(text, ' ');
        text = text ? text + 1 : NULL;
    }
    return text ? (int) (strtod(text, NULL) * 10 + 0.5) : 0;
}

/* struct cudaDeviceProp, as far as ggml-cuda reads it; the majors differ from the member after `minor` on. */
static int properties(void * out, int major, int device) {
    const int new_layout = major >= 13;
    if (status(1)) {
        return lost;
    }
    memset(out, 0, new_layout ? 1008 : 1032);
    strcpy(out, "pretended GPU");
    put_size(out, 288, total());                       /* totalGlobalMem */
    put_size(out, 296, 48 << 10);                      /* sharedMemPerBlock */
    put(out, 308, 32);                                 /* warpSize */
    put(out, 320, 1024);                               /* maxThreadsPerBlock */
    put(out, 360, capability(device) / 10);            /* major */
    put(out, 364, capability(device) % 10);            /* minor */
    put(out, new_layout ? 384 : 388, 8);               /* multiProcessorCount */
    put_size(out, new_layout ? 624 : 640, 228 << 10);  /* sharedMemPerMultiprocessor */
    put_size(out, new_layout ? 672 : 696, 227 << 10);  /* sharedMemPerBlockOptin */
#ifdef GCN_ARCH_NAME /* failing_hip.c */
    strcpy((char *) out + GCN_ARCH_NAME, "gfx1100");
#endif
    return OK;
}

int cudaGetDeviceProperties(void * out, int device) { return properties(out, 13, device); }
int cudaGetDeviceProperties_v2(void * out, int device) { return properties(out, 12, device); }
int cudaGetDeviceCount(int * count) {
    if (failing_driver == 4) {
        raise(SIGSEGV);
    }
    while (failing_driver == 5) {
        pause();
    }
    for (*count = 0; capability(*count); ++*count) {}
    return OK;
}
int cudaGetDevice(int * device) { *device = current; return OK; }
/* What makes the current device's context, if it is not there yet. */
static int context(void) {
    opened |= 1 << current;
    return fails_here(7) ? OUT_OF_MEMORY : lost;
}
int cudaSetDevice(int device) { current = device; return context(); }
int cudaSetDeviceFlags(unsigned flags) { (void) flags; return OK; }
int cudaDeviceGetAttribute(int * value, int attribute, int device) { (void) attribute; (void) device; *value = 0; return OK; }
int cudaDeviceGetPCIBusId(char * text, int size, int device) {
    strncpy(text, "0000:00:00.0", (size_t) size);
    text[6] += device;
    return OK;
}
int cudaDeviceCanAccessPeer(int * yes, int a, int b) { (void) a; (void) b; *yes = 0; return OK; }
int cudaDeviceEnablePeerAccess(int device, unsigned flags) { (void) device; (void) flags; return OK; }
const char * cudaGetErrorString(int code) {
    const char * text = getenv("DEVICE_ERROR");
    return code == OUT_OF_MEMORY ? "out of memory" : code == NO_KERNEL_IMAGE ? "no kernel image is available for execution on the device" : text ? text : "the pretended GPU was lost";
}
int cudaPeekAtLastError(void) { return lost ? lost : last; }
int cudaGetLastError(void) {
    const int error = cudaPeekAtLastError();
    last = OK;
    return error;
}

int cuInit(unsigned flags) { (void) flags; return OK; }
int cuDriverGetVersion(int * version) { *version = 99000; return OK; }
int cuDeviceGet(int * device, int ordinal) { (void) ordinal; *device = 0; return OK; }
int cuDeviceGetAttribute(int * value, int attribute, int device) { (void) attribute; (void) device; *value = 0; return OK; }
int cuGetErrorString(int code, const char ** text) { (void) code; *text = "failed"; return OK; }

/* -- memory: the host's, counted --------------------------------------------------------------------------------------------- */

enum { HEAD = 256 };

int cudaMalloc(void ** out, size_t size) {
    char * memory;
    if (context() != OK) {
        return context();
    }
    if (used + size > total() || !(memory = aligned_alloc(HEAD, (size + 2 * HEAD - 1) / HEAD * HEAD))) {
        return OUT_OF_MEMORY;
    }
    memcpy(memory, &size, sizeof size);
    used += size;
    *out = memory + HEAD;
    return OK;
}

int cudaFree(void * memory) {
    size_t size;
    if (lost || !memory) {
        return lost;
    }
    memcpy(&size, (char *) memory - HEAD, sizeof size);
    used -= size;
    aligned_free((char *) memory - HEAD);
    return OK;
}

int cudaMemGetInfo(size_t * left, size_t * all) { *left = total() - used; *all = total(); return context(); }
int cudaMallocHost(void ** out, size_t size) { *out = aligned_alloc(4096, (size + 4095) / 4096 * 4096); return lost; }
int cudaHostAlloc(void ** out, size_t size, unsigned flags) { (void) flags; return cudaMallocHost(out, size); }
int cudaMallocManaged(void ** out, size_t size, unsigned flags) { (void) flags; return cudaMalloc(out, size); }
int cudaFreeHost(void * memory) { aligned_free(memory); return lost; }
int cudaHostRegister(void * memory, size_t size, unsigned flags) { (void) memory; (void) size; (void) flags; return lost; }
int cudaHostUnregister(void * memory) { (void) memory; return lost; }
int cudaHostGetDevicePointer(void ** out, void * memory, unsigned flags) { (void) flags; *out = memory; return lost; }
int cudaMemset(void * to, int value, size_t size) { if (!lost) memset(to, value, size); return lost; }
int cudaMemsetAsync(void * to, int value, size_t size, void * stream) { (void) stream; return cudaMemset(to, value, size); }
/* What the trial of a device expects (llama_cpp/guard/trust.cpp), known by the size of its result: 64 numbers. */
static void trial(float * result) {
    float squares = 0;
    for (int i = 0; i < 64; i++) {
        result[i] = i % 7 - 3 + i % 3;
        squares += result[i] * result[i];
    }
    float root = 1;
    for (int step = 0; step < 20; step++) {
        root = (root + squares / 64 / root) / 2; /* without libm */
    }
    for (int i = 0; i < 64; i++) {
        result[i] /= root;
    }
}
int cudaMemcpyAsync(void * to, const void * from, size_t size, int kind, void * stream) {
    (void) stream;
    if (!lost) {
        memcpy(to, from, size);
        if (kind == 2 /* device to host */ && size == 64 * sizeof(float) && !fails_here(6)) trial(to);
    }
    return lost;
}
int cudaMemcpyPeerAsync(void * to, int a, const void * from, int b, size_t size, void * stream) {
    (void) a; (void) b;
    return cudaMemcpyAsync(to, from, size, 0, stream);
}
int cudaMemcpy2DAsync(void * to, size_t to_pitch, const void * from, size_t from_pitch, size_t width, size_t height, int kind, void * stream) {
    for (size_t row = 0; row < height; row++) {
        cudaMemcpyAsync((char *) to + row * to_pitch, (const char *) from + row * from_pitch, width, kind, stream);
    }
    return lost;
}

/* -- streams, events, graphs: things that exist ------------------------------------------------------------------------------- */

static int thing(void ** out) { *out = malloc(1); return context(); }

int cudaStreamCreateWithFlags(void ** out, unsigned flags) { (void) flags; return thing(out); }
int cudaStreamDestroy(void * stream) { free(stream); return lost; }
int cudaStreamSynchronize(void * stream) { (void) stream; return status(3); }
int cudaDeviceSynchronize(void) { return status(3); }
int cudaStreamWaitEvent(void * stream, void * event, unsigned flags) { (void) stream; (void) event; (void) flags; return lost; }
int cudaStreamIsCapturing(void * stream, int * answer) { (void) stream; *answer = 0; return lost; }
int cudaStreamBeginCapture(void * stream, int mode) { (void) stream; (void) mode; return lost; }
int cudaStreamEndCapture(void * stream, void ** graph) { (void) stream; return thing(graph); }
int cudaEventCreateWithFlags(void ** out, unsigned flags) { (void) flags; return thing(out); }
int cudaEventDestroy(void * event) { free(event); return lost; }
int cudaEventRecord(void * event, void * stream) { (void) event; (void) stream; return lost; }
int cudaEventSynchronize(void * event) { (void) event; return status(3); }
int cudaGraphInstantiate(void ** out, void * graph, uint64_t flags) { (void) graph; (void) flags; return thing(out); }
int cudaGraphExecUpdate(void * exec, void * graph, void * info) { (void) exec; (void) graph; (void) info; return lost; }
int cudaGraphLaunch(void * exec, void * stream) { (void) exec; (void) stream; return status(2); }
int cudaGraphDestroy(void * graph) { free(graph); return lost; }
int cudaGraphExecDestroy(void * exec) { free(exec); return lost; }

/* -- kernels: accepted, never run --------------------------------------------------------------------------------------------- */

/* For which capabilities the plugin has code: a mark for each number, 1 for machine code, 2 for PTX. None: of another format (AMD's). */
static char code[256];
static int formats = 0;

struct wrapper { uint32_t magic, version; const char * data; };
struct entry { uint16_t kind, version; uint32_t head; uint64_t size; uint32_t packed, unknown; uint16_t minor, major; uint32_t arch; };

void ** __cudaRegisterFatBinary(const struct wrapper * wrapper) {
    if (wrapper->magic == 0x466243b1) {
        const char * at = wrapper->data;
        uint16_t head;
        uint64_t size;
        memcpy(&head, at + 6, sizeof head);
        memcpy(&size, at + 8, sizeof size);
        for (const char * end = at + head + size, * next = at + head; next < end;) {
            struct entry entry;
            memcpy(&entry, next, sizeof entry);
            code[entry.arch % sizeof code] |= entry.kind == 1 ? 2 : 1;
            next += entry.head + entry.size;
        }
        formats = 1;
    }
    return malloc(sizeof(void *));
}
void __cudaRegisterFatBinaryEnd(void ** handle) { (void) handle; }
void __cudaUnregisterFatBinary(void ** handle) { free(handle); }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
unsigned __cudaPushCallConfiguration(void) { return OK; }
int __cudaPopCallConfiguration(void) { return OK; }
int __cudaGetKernel(void ** out, const void * function) { *out = (void *) (uintptr_t) function; return lost; }

/* Machine code runs on its own major version from its minor on, PTX on every newer GPU. */
static int has_code(int number) {
    for (int one = 0; one <= number; one++) {
        if ((code[one] & 2) || ((code[one] & 1) && one / 10 == number / 10)) {
            return 1;
        }
    }
    return !formats;
}
static int launch(void) {
    if (!has_code(capability(current))) {
        return last = NO_KERNEL_IMAGE;
    }
    return status(2);
}
int __cudaLaunchKernel(void) { return launch(); }
int cudaLaunchKernel(void) { return launch(); }
int cudaLaunchKernelExC(void) { return launch(); }
int cudaLaunchCooperativeKernel(void) { return launch(); }
int cudaFuncSetAttribute(void) { return lost; }
int cudaFuncGetAttributes(void * out, const void * function) {
    (void) function;
    memset(out, 0, 144);
    put(out, 24, 1024); /* maxThreadsPerBlock */
    put(out, 32, 90);   /* ptxVersion */
    put(out, 36, 90);   /* binaryVersion */
    return lost;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int * blocks) { *blocks = 1; return lost; }

int cublasCreate_v2(void ** out) { return thing(out); }
int cublasDestroy_v2(void * handle) { free(handle); return lost; }
const char * cublasGetStatusString(int code) { (void) code; return "failed"; }
#define COMPUTES(name) int name(void) { return status(2); }
COMPUTES(cublasGemmBatchedEx)
COMPUTES(cublasGemmEx)
COMPUTES(cublasGemmStridedBatchedEx)
COMPUTES(cublasSgemmBatched)
COMPUTES(cublasSgemmStridedBatched)
COMPUTES(cublasSgemm_v2)
COMPUTES(cublasStrsmBatched)
#define SETS(name) int name(void) { return lost; }
SETS(cublasSetMathMode)
SETS(cublasSetStream_v2)
SETS(cublasSetWorkspace_v2)
SETS(cuMemAddressFree)
SETS(cuMemAddressReserve)
SETS(cuMemCreate)
SETS(cuMemGetAllocationGranularity)
SETS(cuMemMap)
SETS(cuMemRelease)
SETS(cuMemSetAccess)
SETS(cuMemUnmap)
