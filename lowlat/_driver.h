/* The few CUDA driver types and entry points a launch needs.
 *
 * Declared here so that no CUDA toolkit is needed to build, and found at run
 * time in whichever libcuda.so.1 the process already uses: the same lookup
 * Triton makes, so that both launch through the same driver (the null driver
 * included).  Layouts and values are the driver's ABI (CUDA 12 and 13).
 */
#ifndef LOWLAT_DRIVER_H
#define LOWLAT_DRIVER_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int CUresult;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
};

enum {
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE = 5,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
    CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE = 18,
};

enum {
    CU_CLUSTER_SCHEDULING_POLICY_SPREAD = 1,
    CU_SHARED_MEMORY_MODE_ALLOW_OVERSIZED_SHARED_MEMORY = 3,
    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
    CU_STREAM_LEGACY = 1, /* as is 0 */
    CU_STREAM_PER_THREAD = 2, /* of all handles the one that is another stream in each thread */
};

/* Parameters as one buffer, laid out as the kernel reads them, instead of a
 * pointer to each: `extra`, which for the nodes of graphs costs the driver less
 * (0.37 us against 0.46; cuLaunchKernelEx gained nothing that was seen). */
typedef struct {
    void *extra[5];
    size_t size;
} lowlat_buffer;

/* Every parameter is written as a whole word, in ascending order of `offsets`:
 * a shorter one's excess bytes are overwritten by those behind it, and the last
 * one's lie beyond `size`.  So `bytes` has room for a word more.  Word `i` of a
 * kernel's parameters is that of argument `slots[i]`, or without them the i-th;
 * the two scratch pointers come last, and are null. */
static inline void **lowlat_pack(lowlat_buffer *buffer, void *bytes, size_t size, const uint16_t *offsets,
                                 const uint64_t *words, const uint16_t *slots, size_t count)
{
    const uint64_t scratch = 0;
    void **extra = buffer->extra;
    for (size_t i = 0; i < count; ++i)
        memcpy((char *)bytes + offsets[i], &words[slots == NULL ? i : slots[i]], sizeof *words);
    memcpy((char *)bytes + offsets[count], &scratch, sizeof scratch);
    memcpy((char *)bytes + offsets[count + 1], &scratch, sizeof scratch);
    buffer->size = size;
    extra[0] = (void *)1; /* CU_LAUNCH_PARAM_BUFFER_POINTER */
    extra[1] = bytes;
    extra[2] = (void *)2; /* CU_LAUNCH_PARAM_BUFFER_SIZE */
    extra[3] = &buffer->size;
    extra[4] = NULL; /* CU_LAUNCH_PARAM_END */
    return extra;
}

typedef union {
    char bytes[64];
    int32_t integer;
    uint32_t cluster[3];
} lowlat_attribute_value;

typedef struct {
    uint32_t id;
    uint32_t padding;
    lowlat_attribute_value value;
} CUlaunchAttribute;

typedef struct {
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared;
    CUstream stream;
    CUlaunchAttribute *attributes;
    uint32_t attribute_count;
} CUlaunchConfig;

_Static_assert(sizeof(CUlaunchAttribute) == 72, "CUlaunchAttribute is 72 bytes");
_Static_assert(offsetof(CUlaunchConfig, stream) == 32, "CUlaunchConfig is the driver's");
_Static_assert(sizeof(CUlaunchConfig) == 56, "CUlaunchConfig is 56 bytes");

/* CUDA_KERNEL_NODE_PARAMS_v2, as the _v2 entry points of CUDA 12 and later take it. */
typedef struct {
    CUfunction function;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared;
    void **parameters;
    void **extra;
    void *kernel;  /* a CUkernel, instead of `function` */
    void *context; /* of that CUkernel */
} CUkernelNodeParams;

_Static_assert(sizeof(CUkernelNodeParams) == 72, "CUDA_KERNEL_NODE_PARAMS_v2 is 72 bytes");

/* What the graph route takes; all there, or none. */
typedef struct {
    CUresult (*create)(CUgraph *, unsigned);
    CUresult (*add_kernel)(CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUkernelNodeParams *);
    CUresult (*instantiate)(CUgraphExec *, CUgraph, unsigned long long);
    CUresult (*set_parameters)(CUgraphExec, CUgraphNode, const CUkernelNodeParams *);
    CUresult (*launch)(CUgraphExec, CUstream);
    CUresult (*destroy)(CUgraph);
    CUresult (*destroy_exec)(CUgraphExec);
    CUresult (*is_capturing)(CUstream, int *);
    CUresult (*stream_context)(CUstream, void **);
    CUresult (*exchange_capture_mode)(int *);
} lowlat_graph_api;

typedef struct {
    CUresult (*launch)(const CUlaunchConfig *, CUfunction, void **, void **);
    CUresult (*error_string)(CUresult, const char **);
    CUresult (*set_function_attribute)(CUfunction, int, int);
    CUresult (*current_context)(void **);
    CUresult (*parameter_info)(CUfunction, size_t, size_t *, size_t *); /* NULL before CUDA 12.4 */
} lowlat_driver_api;

/* Fills `api` from the process's libcuda.so.1.  Returns NULL, or what is
 * missing.  The library is never closed: Triton keeps it open as well. */
static inline const char *lowlat_driver_find(lowlat_driver_api *api)
{
    void *library = dlopen("libcuda.so.1", RTLD_LAZY);
    if (library == NULL)
        return "libcuda.so.1";
    *(void **)&api->launch = dlsym(library, "cuLaunchKernelEx");
    if (api->launch == NULL)
        return "cuLaunchKernelEx in libcuda.so.1";
    *(void **)&api->error_string = dlsym(library, "cuGetErrorString");
    if (api->error_string == NULL)
        return "cuGetErrorString in libcuda.so.1";
    *(void **)&api->set_function_attribute = dlsym(library, "cuFuncSetAttribute");
    if (api->set_function_attribute == NULL)
        return "cuFuncSetAttribute in libcuda.so.1";
    *(void **)&api->current_context = dlsym(library, "cuCtxGetCurrent");
    if (api->current_context == NULL)
        return "cuCtxGetCurrent in libcuda.so.1";
    *(void **)&api->parameter_info = dlsym(library, "cuFuncGetParamInfo");
    return NULL;
}

/* Fills `api` from the process's libcuda.so.1.  Returns NULL, or what is
 * missing, in which case nothing of `api` may be called. */
static inline const char *lowlat_graph_find(lowlat_graph_api *api)
{
    void *library = dlopen("libcuda.so.1", RTLD_LAZY);
    const struct {
        void **function;
        const char *name;
    } wanted[] = {
        {(void **)&api->create, "cuGraphCreate"},
        {(void **)&api->add_kernel, "cuGraphAddKernelNode_v2"},
        {(void **)&api->instantiate, "cuGraphInstantiateWithFlags"},
        {(void **)&api->set_parameters, "cuGraphExecKernelNodeSetParams_v2"},
        {(void **)&api->launch, "cuGraphLaunch"},
        {(void **)&api->destroy, "cuGraphDestroy"},
        {(void **)&api->destroy_exec, "cuGraphExecDestroy"},
        {(void **)&api->is_capturing, "cuStreamIsCapturing"},
        {(void **)&api->stream_context, "cuStreamGetCtx"},
        {(void **)&api->exchange_capture_mode, "cuThreadExchangeStreamCaptureMode"},
    };
    if (library == NULL)
        return "libcuda.so.1";
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i)
        if ((*wanted[i].function = dlsym(library, wanted[i].name)) == NULL)
            return wanted[i].name;
    return NULL;
}

#endif
