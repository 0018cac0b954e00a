// Before the Vulkan loader: a driver that fails when it is told to. `failing_driver` is set from Python.
//   1  vkCreateDevice        2  vkQueueSubmit        3  vkWaitForFences and vkGetFenceStatus
//   4  crashes, 5  hangs while devices are listed
// FAILING_DRIVER in the environment sets it from the start.
// Linux preloads it. Windows takes it for the loader: its file is a vulkan-1.dll that was opened before, and it has every function that
// the plugin imports.
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan_core.h>

#ifdef _WIN32
#include <windows.h>
#define EXPORTED __declspec(dllexport)

static void * real(const char * name) {
    static HMODULE loader;
    if (!loader) {
        char path[MAX_PATH];
        GetSystemDirectoryA(path, sizeof path - 20);
        loader = LoadLibraryA(strcat(path, "\\vulkan-1.dll"));
    }
    return (void *) GetProcAddress(loader, name);
}

static void crash(void) { *(volatile int *) 0 = 0; }
static void rest(void) { Sleep(1000); }
#else
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>
#define EXPORTED

static void * real(const char * name) { return dlsym(dlopen("libvulkan.so.1", RTLD_NOW), name); }
static void crash(void) { raise(SIGSEGV); }
static void rest(void) { pause(); }
#endif

EXPORTED int failing_driver = 0;

__attribute__((constructor)) static void from_environment(void) {
    const char * text = getenv("FAILING_DRIVER");
    failing_driver = text ? atoi(text) : 0;
}

static PFN_vkGetInstanceProcAddr instance_proc;
static PFN_vkGetDeviceProcAddr device_proc;
static PFN_vkCreateDevice create_device;
static PFN_vkQueueSubmit queue_submit;
static PFN_vkWaitForFences wait_for_fences;
static PFN_vkGetFenceStatus get_fence_status;
static PFN_vkEnumeratePhysicalDevices enumerate;

static VkResult VKAPI_CALL my_create_device(VkPhysicalDevice d, const VkDeviceCreateInfo * i, const VkAllocationCallbacks * a, VkDevice * o) {
    return failing_driver == 1 ? VK_ERROR_INITIALIZATION_FAILED : create_device(d, i, a, o);
}
static VkResult VKAPI_CALL my_queue_submit(VkQueue q, uint32_t n, const VkSubmitInfo * s, VkFence f) {
    return failing_driver == 2 ? VK_ERROR_DEVICE_LOST : queue_submit(q, n, s, f);
}
static VkResult VKAPI_CALL my_wait_for_fences(VkDevice d, uint32_t n, const VkFence * f, VkBool32 all, uint64_t timeout) {
    return failing_driver == 3 ? VK_ERROR_DEVICE_LOST : wait_for_fences(d, n, f, all, timeout);
}
static VkResult VKAPI_CALL my_get_fence_status(VkDevice d, VkFence f) {
    return failing_driver == 3 ? VK_ERROR_DEVICE_LOST : get_fence_status(d, f);
}

static VkResult VKAPI_CALL my_enumerate(VkInstance i, uint32_t * n, VkPhysicalDevice * d) {
    if (failing_driver == 4) {
        crash();
    }
    while (failing_driver == 5) {
        rest();
    }
    return enumerate(i, n, d);
}

static PFN_vkVoidFunction VKAPI_CALL my_device_proc(VkDevice device, const char * name);

static PFN_vkVoidFunction replaced(const char * name, PFN_vkVoidFunction found) {
    if (!found) return found;
    if (!strcmp(name, "vkGetDeviceProcAddr")) { device_proc = (PFN_vkGetDeviceProcAddr) found; return (PFN_vkVoidFunction) my_device_proc; }
    if (!strcmp(name, "vkEnumeratePhysicalDevices")) { enumerate = (PFN_vkEnumeratePhysicalDevices) found; return (PFN_vkVoidFunction) my_enumerate; }
    if (!strcmp(name, "vkCreateDevice")) { create_device = (PFN_vkCreateDevice) found; return (PFN_vkVoidFunction) my_create_device; }
    if (!strcmp(name, "vkQueueSubmit")) { queue_submit = (PFN_vkQueueSubmit) found; return (PFN_vkVoidFunction) my_queue_submit; }
    if (!strcmp(name, "vkWaitForFences")) { wait_for_fences = (PFN_vkWaitForFences) found; return (PFN_vkVoidFunction) my_wait_for_fences; }
    if (!strcmp(name, "vkGetFenceStatus")) { get_fence_status = (PFN_vkGetFenceStatus) found; return (PFN_vkVoidFunction) my_get_fence_status; }
    return found;
}

static PFN_vkVoidFunction VKAPI_CALL my_device_proc(VkDevice device, const char * name) {
    return replaced(name, device_proc(device, name));
}

EXPORTED PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char * name) {
    if (!instance_proc) {
        instance_proc = (PFN_vkGetInstanceProcAddr) real("vkGetInstanceProcAddr");
    }
    return replaced(name, instance_proc(instance, name));
}

#ifdef _WIN32
// The plugin imports these, too. Where one is missing here it does not load, and the tests say so.
EXPORTED void VKAPI_CALL vkCmdCopyBuffer(VkCommandBuffer c, VkBuffer from, VkBuffer to, uint32_t n, const VkBufferCopy * regions) {
    ((PFN_vkCmdCopyBuffer) real("vkCmdCopyBuffer"))(c, from, to, n, regions);
}
EXPORTED void VKAPI_CALL vkGetPhysicalDeviceFeatures2(VkPhysicalDevice d, VkPhysicalDeviceFeatures2 * features) {
    ((PFN_vkGetPhysicalDeviceFeatures2) real("vkGetPhysicalDeviceFeatures2"))(d, features);
}
EXPORTED PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char * name) {
    if (!device_proc) {
        device_proc = (PFN_vkGetDeviceProcAddr) real("vkGetDeviceProcAddr");
    }
    return my_device_proc(device, name);
}
#endif
