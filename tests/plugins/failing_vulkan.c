// Preloaded before the Vulkan loader: a driver that fails when it is told to. `failing_driver` is set from Python.
//   1  vkCreateDevice        2  vkQueueSubmit        3  vkWaitForFences and vkGetFenceStatus
//   4  crashes, 5  hangs while devices are listed
// FAILING_DRIVER in the environment sets it from the start.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <string.h>
#include <vulkan/vulkan_core.h>

int failing_driver = 0;

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

static VkResult my_create_device(VkPhysicalDevice d, const VkDeviceCreateInfo * i, const VkAllocationCallbacks * a, VkDevice * o) {
    return failing_driver == 1 ? VK_ERROR_INITIALIZATION_FAILED : create_device(d, i, a, o);
}
static VkResult my_queue_submit(VkQueue q, uint32_t n, const VkSubmitInfo * s, VkFence f) {
    return failing_driver == 2 ? VK_ERROR_DEVICE_LOST : queue_submit(q, n, s, f);
}
static VkResult my_wait_for_fences(VkDevice d, uint32_t n, const VkFence * f, VkBool32 all, uint64_t timeout) {
    return failing_driver == 3 ? VK_ERROR_DEVICE_LOST : wait_for_fences(d, n, f, all, timeout);
}
static VkResult my_get_fence_status(VkDevice d, VkFence f) {
    return failing_driver == 3 ? VK_ERROR_DEVICE_LOST : get_fence_status(d, f);
}

static VkResult my_enumerate(VkInstance i, uint32_t * n, VkPhysicalDevice * d) {
    if (failing_driver == 4) raise(SIGSEGV);
    while (failing_driver == 5) pause();
    return enumerate(i, n, d);
}

static PFN_vkVoidFunction my_device_proc(VkDevice device, const char * name);

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

static PFN_vkVoidFunction my_device_proc(VkDevice device, const char * name) {
    return replaced(name, device_proc(device, name));
}

PFN_vkVoidFunction vkGetInstanceProcAddr(VkInstance instance, const char * name) {
    if (!instance_proc) {
        instance_proc = (PFN_vkGetInstanceProcAddr) dlsym(dlopen("libvulkan.so.1", RTLD_NOW), "vkGetInstanceProcAddr");
    }
    return replaced(name, instance_proc(instance, name));
}
