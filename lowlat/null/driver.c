/* The null driver: a libcuda.so.1 with no GPU behind it.
 *
 * It exports what Triton's launch path (3.6 to 3.9) and lowlat call, keeps the
 * rules whose breach is a bug on real hardware (a context must be current, a
 * function belongs to one context), counts launches, and on request records
 * them.  Launching returns at once; memory is never touched.
 *
 * Two devices of compute capability 9.0.  The current context is per thread,
 * as in the driver; the current device and stream are per thread, as in torch.
 * Records are kept under one lock; everything else is per thread or set once
 * by a test before it launches.
 */
#include "../_driver.h"

#include <elf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES 2

typedef struct null_context *CUcontext;
typedef int CUdevice;

struct null_context {
    int device;
};

/* A loaded kernel image; the layout of its parameters is read from the
 * cubin's own .nv.info records, so a record holds the bytes the kernel sees. */
typedef struct {
    struct null_context *context;
    char *image;
    size_t image_size;
} null_module;

#define MAX_PARAMETERS 4096

typedef struct {
    null_module *module;
    char *name;
    int parameter_count;
    uint16_t *offsets;
    uint16_t *sizes;
} null_function;

typedef struct null_record {
    struct null_record *next;
    null_function *function;
    int device;
    CUlaunchConfig config;
    CUlaunchAttribute attributes[8];
    size_t parameter_bytes;
    unsigned char parameters[];
} null_record;

static struct null_context contexts[DEVICES] = {{0}, {1}};
static __thread CUcontext current_context;
static __thread int current_device;
static __thread void *current_streams[DEVICES];

static _Atomic uint64_t launch_count;
static atomic_int recording;
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;
static null_record *records_head, **records_tail = &records_head;

/* An injected failure: `result` from the entry point `name`, `times` times. */
static struct {
    char name[64];
    CUresult result;
    atomic_int times;
} failure;

static CUresult injected(const char *name)
{
    if (atomic_load_explicit(&failure.times, memory_order_relaxed) <= 0 || strcmp(failure.name, name) != 0)
        return CUDA_SUCCESS;
    if (atomic_fetch_sub(&failure.times, 1) <= 0)
        return CUDA_SUCCESS;
    return failure.result;
}

#define ENTER()                                 \
    do {                                        \
        CUresult injected_ = injected(__func__); \
        if (injected_ != CUDA_SUCCESS)          \
            return injected_;                   \
    } while (0)

/* ---- what a test or a benchmark asks ---------------------------------- */

EXPORT uint64_t lowlat_null_launches(void) { return atomic_load(&launch_count); }

EXPORT int lowlat_null_get_device(void) { return current_device; }

EXPORT int lowlat_null_set_device(int device)
{
    if (device < 0 || device >= DEVICES)
        return CUDA_ERROR_INVALID_VALUE;
    current_device = device;
    current_context = &contexts[device];
    return CUDA_SUCCESS;
}

EXPORT void *lowlat_null_get_stream(int device)
{
    return device >= 0 && device < DEVICES ? current_streams[device] : NULL;
}

EXPORT int lowlat_null_set_stream(int device, void *stream)
{
    if (device < 0 || device >= DEVICES)
        return CUDA_ERROR_INVALID_VALUE;
    current_streams[device] = stream;
    return CUDA_SUCCESS;
}

EXPORT void lowlat_null_drop_context(void) { current_context = NULL; }

EXPORT void lowlat_null_fail(const char *name, CUresult result, int times)
{
    atomic_store(&failure.times, 0);
    snprintf(failure.name, sizeof failure.name, "%s", name);
    failure.result = result;
    atomic_store(&failure.times, times);
}

EXPORT void lowlat_null_record(int enabled) { atomic_store(&recording, enabled); }

/* Takes the oldest record, or returns NULL; lowlat_null_free gives it back. */
EXPORT null_record *lowlat_null_take(void)
{
    pthread_mutex_lock(&record_lock);
    null_record *record = records_head;
    if (record != NULL) {
        records_head = record->next;
        if (records_head == NULL)
            records_tail = &records_head;
    }
    pthread_mutex_unlock(&record_lock);
    return record;
}

EXPORT void lowlat_null_free(null_record *record) { free(record); }

/* ---- the cubin's parameter layout -------------------------------------- */

/* Size of an ELF image that arrives without a length: the section headers
 * come last in a cubin. */
static size_t elf_size(const char *image)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return 0;
    size_t end = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    for (int i = 0; i < header->e_shnum; ++i)
        if (sections[i].sh_type != SHT_NOBITS && sections[i].sh_offset + sections[i].sh_size > end)
            end = sections[i].sh_offset + sections[i].sh_size;
    size_t programs = header->e_phoff + (size_t)header->e_phnum * header->e_phentsize;
    return programs > end ? programs : end;
}

/* Reads the KPARAM_INFO records (attribute 0x17: ordinal, offset, size) of
 * section .nv.info.<name>.  Returns 0 when the kernel is not in the image. */
static int read_layout(null_function *function)
{
    const char *image = function->module->image;
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    const char *names = image + sections[header->e_shstrndx].sh_offset;
    int found = 0;
    for (int i = 0; i < header->e_shnum; ++i) {
        const char *section = names + sections[i].sh_name;
        if (strncmp(section, ".text.", 6) == 0 && strcmp(section + 6, function->name) == 0)
            found = 1;
        if (strncmp(section, ".nv.info.", 9) != 0 || strcmp(section + 9, function->name) != 0)
            continue;
        const unsigned char *at = (const unsigned char *)image + sections[i].sh_offset;
        const unsigned char *end = at + sections[i].sh_size;
        while (at + 4 <= end) {
            uint16_t size;
            memcpy(&size, at + 2, 2);
            if (at[0] != 0x04) { /* a value inside the record's own four bytes */
                at += 4;
                continue;
            }
            if (at[1] == 0x17 && size >= 12) {
                uint16_t ordinal, offset;
                uint32_t packed;
                memcpy(&ordinal, at + 8, 2);
                memcpy(&offset, at + 10, 2);
                memcpy(&packed, at + 12, 4);
                if (ordinal < MAX_PARAMETERS) {
                    function->offsets[ordinal] = offset;
                    function->sizes[ordinal] = packed >> 18;
                    if (ordinal >= function->parameter_count)
                        function->parameter_count = ordinal + 1;
                }
            }
            at += 4 + size;
        }
    }
    return found;
}

/* ---- the driver's entry points ------------------------------------------ */

EXPORT CUresult cuInit(unsigned flags) { (void)flags; return CUDA_SUCCESS; }

EXPORT CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }

EXPORT CUresult cuDeviceGetCount(int *count) { *count = DEVICES; return CUDA_SUCCESS; }

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    ENTER();
    if (ordinal < 0 || ordinal >= DEVICES)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

/* An H100's answers to what Triton asks. */
EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    (void)device;
    ENTER();
    switch (attribute) {
    case 10: *value = 32; break;      /* warp size */
    case 12: *value = 65536; break;   /* registers per block */
    case 13: *value = 1980000; break; /* SM clock, kHz */
    case 16: *value = 132; break;     /* multiprocessors */
    case 36: *value = 2619000; break; /* memory clock, kHz */
    case 37: *value = 5120; break;    /* memory bus width, bits */
    case 75: *value = 9; break;       /* compute capability, major */
    case 76: *value = 0; break;       /* compute capability, minor */
    case 81: *value = 233472; break;  /* shared memory per multiprocessor */
    case 97: *value = 232448; break;  /* shared memory per block, opt-in */
    default: *value = 0; break;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    ENTER();
    if (device < 0 || device >= DEVICES)
        return CUDA_ERROR_INVALID_VALUE;
    *context = &contexts[device];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
    ENTER();
    *context = current_context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
    ENTER();
    current_context = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *device = current_context->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }

EXPORT CUresult cuCtxGetLimit(size_t *value, int limit) { (void)limit; *value = 0; return CUDA_SUCCESS; }

EXPORT CUresult cuCtxSetLimit(int limit, size_t value) { (void)limit; (void)value; return CUDA_SUCCESS; }

EXPORT CUresult cuStreamSynchronize(CUstream stream) { (void)stream; return CUDA_SUCCESS; }

EXPORT CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
    (void)stream;
    *status = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadData(null_module **out, const void *data)
{
    ENTER();
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    size_t size = elf_size(data);
    null_module *module = calloc(1, sizeof *module);
    if (module == NULL || size == 0 || (module->image = malloc(size)) == NULL) {
        free(module);
        return CUDA_ERROR_INVALID_VALUE;
    }
    memcpy(module->image, data, size);
    module->image_size = size;
    module->context = current_context;
    *out = module;
    return CUDA_SUCCESS;
}

/* Functions outlive their module here: a record may still name them. */
EXPORT CUresult cuModuleUnload(null_module *module)
{
    ENTER();
    free(module->image);
    module->image = NULL;
    module->context = NULL;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(null_function **out, null_module *module, const char *name)
{
    ENTER();
    null_function *function = calloc(1, sizeof *function);
    if (function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    function->module = module;
    function->name = strdup(name);
    function->offsets = calloc(MAX_PARAMETERS, sizeof(uint16_t));
    function->sizes = calloc(MAX_PARAMETERS, sizeof(uint16_t));
    if (function->name == NULL || function->offsets == NULL || function->sizes == NULL || !read_layout(function)) {
        free(function->name);
        free(function->offsets);
        free(function->sizes);
        free(function);
        return CUDA_ERROR_NOT_FOUND;
    }
    *out = function;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncGetAttribute(int *value, int attribute, null_function *function)
{
    (void)function;
    ENTER();
    switch (attribute) {
    case 0: *value = 1024; break; /* threads per block */
    case 4: *value = 32; break;   /* registers */
    default: *value = 0; break;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(null_function *function, int attribute, int value)
{
    (void)function;
    (void)value;
    ENTER();
    /* 17, the shared-memory mode, is unknown to today's drivers; Triton 3.8
     * and later then take the older way, as on an H100. */
    return attribute == 17 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

EXPORT CUresult cuFuncSetCacheConfig(null_function *function, int config)
{
    (void)function;
    (void)config;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuOccupancyMaxActiveClusters(int *clusters, null_function *function, const CUlaunchConfig *config)
{
    (void)function;
    (void)config;
    *clusters = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuPointerGetAttribute(void *value, int attribute, uint64_t pointer)
{
    (void)attribute;
    ENTER();
    memcpy(value, &pointer, sizeof pointer);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuTensorMapEncodeTiled(void *map, int type, uint32_t rank, void *address, const uint64_t *dimensions,
                                       const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,
                                       int interleave, int swizzle, int promotion, int fill)
{
    uint64_t words[16] = {(uint64_t)(uintptr_t)address, (uint64_t)type, rank, (uint64_t)swizzle, (uint64_t)fill};
    (void)element_strides;
    (void)interleave;
    (void)promotion;
    ENTER();
    for (uint32_t i = 0; i < rank && i < 3; ++i) {
        words[5 + i] = dimensions[i];
        words[8 + i] = box[i];
        if (i + 1 < rank)
            words[11 + i] = strides[i];
    }
    memcpy(map, words, sizeof words);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuTensorMapEncodeIm2col(void *map)
{
    memset(map, 0, 128);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult result, const char **text)
{
    switch (result) {
    case CUDA_SUCCESS: *text = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    case 2: *text = "out of memory"; break;
    case CUDA_ERROR_NOT_INITIALIZED: *text = "initialization error"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    case CUDA_ERROR_INVALID_HANDLE: *text = "invalid resource handle"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case 700: *text = "an illegal memory access was encountered"; break;
    case 701: *text = "too many resources requested for launch"; break;
    case 719: *text = "unspecified launch failure"; break;
    default: *text = "unrecognized error code"; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static CUresult record_launch(const CUlaunchConfig *config, null_function *function, void **parameters)
{
    size_t bytes = 0;
    for (int i = 0; i < function->parameter_count; ++i)
        if ((size_t)function->offsets[i] + function->sizes[i] > bytes)
            bytes = (size_t)function->offsets[i] + function->sizes[i];
    null_record *record = calloc(1, sizeof *record + bytes);
    if (record == NULL)
        return 2;
    record->function = function;
    record->device = current_context->device;
    record->config = *config;
    for (uint32_t i = 0; i < config->attribute_count && i < 8; ++i)
        record->attributes[i] = config->attributes[i];
    record->parameter_bytes = bytes;
    for (int i = 0; i < function->parameter_count; ++i)
        memcpy(record->parameters + function->offsets[i], parameters[i], function->sizes[i]);
    pthread_mutex_lock(&record_lock);
    *records_tail = record;
    records_tail = &record->next;
    pthread_mutex_unlock(&record_lock);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction handle, void **parameters, void **extra)
{
    null_function *function = (null_function *)handle;
    (void)extra;
    ENTER();
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (function->module->context != current_context)
        return CUDA_ERROR_INVALID_HANDLE;
    atomic_fetch_add_explicit(&launch_count, 1, memory_order_relaxed);
    if (atomic_load_explicit(&recording, memory_order_relaxed))
        return record_launch(config, function, parameters);
    return CUDA_SUCCESS;
}

EXPORT const char *lowlat_null_function_name(null_function *function) { return function->name; }
EXPORT int lowlat_null_parameter_count(null_function *function) { return function->parameter_count; }
EXPORT void lowlat_null_parameter(null_function *function, int index, int *offset, int *size)
{
    *offset = function->offsets[index];
    *size = function->sizes[index];
}
