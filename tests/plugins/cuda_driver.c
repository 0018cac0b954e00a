/* A libcuda.so.1 without a GPU, for the tests of what happens around a driver (tests/layouts).
 *
 * DRIVER_VERSION (12040 for CUDA 12.4) is what it says of itself: an old one makes NVIDIA's runtime refuse it; with a new one
 * there is simply no device. It answers the questions that the runtime asks first; everything else fails.
 */
#include <stdlib.h>

enum { SUCCESS = 0, NO_DEVICE = 100 };

int cuDriverGetVersion(int * version) {
    const char * text = getenv("DRIVER_VERSION");
    *version = text ? atoi(text) : 12040;
    return SUCCESS;
}

int cuInit(unsigned flags) { (void) flags; return NO_DEVICE; }

/* What ggml-cuda itself takes from the driver (virtual memory). */
#define FAILS(name) int name(void) { return NO_DEVICE; }
FAILS(cuDeviceGet)
FAILS(cuDeviceGetAttribute)
FAILS(cuGetErrorString)
FAILS(cuMemAddressFree)
FAILS(cuMemAddressReserve)
FAILS(cuMemCreate)
FAILS(cuMemGetAllocationGranularity)
FAILS(cuMemMap)
FAILS(cuMemRelease)
FAILS(cuMemSetAccess)
FAILS(cuMemUnmap)
