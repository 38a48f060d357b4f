/* Stands in for AMD's HIP runtime under Triton's own C code.  The functions that are not here are Python's, in hip.py;
 * those that are called while a Python exception is set cannot be. */
#define __HIP_PLATFORM_AMD__
#include <hip/hip_runtime_api.h>
#include <string.h>

void *(*lowlat_find)(const char *name);

#undef hipGetDeviceProperties
static hipError_t get_device_properties(hipDeviceProp_t *properties, int device)
{
    memset(properties, 0, sizeof(*properties));
    strcpy(properties->gcnArchName, "gfx942:sramecc+:xnack-");
    properties->warpSize = 64;
    properties->sharedMemPerBlock = 65536;
    properties->cooperativeLaunch = 1;
    return device < 2 ? hipSuccess : hipErrorInvalidDevice;
}

static hipError_t get_last_error(void) { return hipSuccess; }

static const char *get_error_string(hipError_t error) { return "a HIP error"; }

hipError_t hipDriverGetVersion(int *version)
{
    *version = HIP_VERSION;
    return hipSuccess;
}

hipError_t hipGetProcAddress(const char *name, void **function, int version, uint64_t flags,
                             hipDriverProcAddressQueryResult *status)
{
    static const struct { const char *name; void *function; } own[] = {
        {"hipGetDeviceProperties", get_device_properties},
        {"hipGetLastError", get_last_error},
        {"hipGetErrorString", get_error_string},
    };
    *function = lowlat_find(name);
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        if (strcmp(name, own[i].name) == 0)
            *function = own[i].function;
    return *function != NULL ? hipSuccess : hipErrorInvalidValue;
}
