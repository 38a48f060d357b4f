/* The null driver: a libcuda.so.1 with no GPU behind it.
 *
 * It exports what Triton's launch path (3.6 to 3.9) and lowlat call, keeps the
 * rules whose breach is a bug on real hardware (a context must be current, a
 * function belongs to one context, a graph has one user at a time), counts
 * launches, and on request records them and the modules loaded and unloaded.
 * Launching returns at once; memory is never touched.  The entry points are
 * found by symbol or by cuGetProcAddress.
 *
 * Two devices of compute capability 9.0.  The current context is per thread,
 * as in the driver; the current device and stream are per thread, as in torch.
 * Events, functions and capturing streams are kept under a lock each; graphs
 * have a flag each; everything else is per thread or set once by a test before
 * it launches.
 */
#include "../_driver.h"

#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES 2

typedef struct null_context *CUcontext;
typedef int CUdevice;

struct null_context {
    int device;
};

/* A loaded image.  It outlives its unloading (less the image), so that a
 * launch of an unloaded function is an error and not a crash. */
typedef struct {
    struct null_context *context;
    char *image;
    size_t image_size;
    uint64_t number;
    uint64_t unloaded; /* the how-manieth to be; 0: it is loaded */
} null_module;

#define MAX_PARAMETERS 4096

/* The layout of a kernel's parameters, from the cubin's own .nv.info records:
 * what is recorded of a launch are the bytes that the kernel would see. */
typedef struct {
    int count;
    uint16_t offsets[MAX_PARAMETERS];
    uint16_t sizes[MAX_PARAMETERS];
} null_layout;

/* As with the real driver, what is loaded later may get the handle of a
 * function whose module was unloaded: here the next one does, of that which was
 * unloaded last. */
typedef struct null_function {
    null_module *module;
    struct null_function *next; /* of all */
    char *name;
    int parameter_count;
    uint16_t *offsets;
    uint16_t *sizes;
} null_function;

static null_function *functions;
static uint64_t unloaded_count;
static pthread_mutex_t function_lock = PTHREAD_MUTEX_INITIALIZER;

/* What happened, as bytes in the order in which lowlat/null/__init__.py reads
 * them: whatever it names may be gone by then. */
typedef struct null_event {
    struct null_event *next;
    size_t size;
    size_t capacity;
    unsigned char bytes[];
} null_event;

enum { EVENT_LAUNCH = 1, EVENT_LOAD = 2, EVENT_UNLOAD = 3 };
enum { BY_LAUNCH_KERNEL_EX = 0, BY_LAUNCH_KERNEL = 1, BY_GRAPH_LAUNCH = 2 };

static struct null_context contexts[DEVICES] = {{0}, {1}};
static __thread CUcontext current_context;
static __thread int current_device;
static __thread void *current_streams[DEVICES];

static _Atomic uint64_t launch_count;
static _Atomic uint64_t module_count;
static atomic_int recording;
static pthread_mutex_t event_lock = PTHREAD_MUTEX_INITIALIZER;
static null_event *events_head, **events_tail = &events_head;
static _Atomic uint64_t graph_count;     /* executable graphs alive */
static _Atomic uint64_t green_stream; /* of a green context; 0: none */
static _Atomic uint64_t violation_count; /* of what graphs demand of their users */
static _Atomic uint64_t spoilt_count;    /* launches that ended a capture */
static atomic_int linger_yields;

/* An injected failure: `result` from the entry point `name`, `times` times
 * after `after` calls that are served. */
static struct {
    char name[64];
    CUresult result;
    atomic_int after;
    atomic_int times;
} failure;

static CUresult injected(const char *name)
{
    if (atomic_load_explicit(&failure.times, memory_order_relaxed) <= 0 || strcmp(failure.name, name) != 0)
        return CUDA_SUCCESS;
    if (atomic_load(&failure.after) > 0 && atomic_fetch_sub(&failure.after, 1) > 0)
        return CUDA_SUCCESS;
    if (atomic_fetch_sub(&failure.times, 1) <= 0)
        return CUDA_SUCCESS;
    return failure.result;
}

/* Whether launches fail, by whatever call they are made: what ails a device
 * does not go away for another call.  Takes none of the times. */
static CUresult launches_fail(void)
{
    if (atomic_load_explicit(&failure.times, memory_order_relaxed) <= 0 ||
        strncmp(failure.name, "cuLaunchKernel", strlen("cuLaunchKernel")) != 0 || atomic_load(&failure.after) > 0)
        return CUDA_SUCCESS;
    return failure.result;
}

/* Memory that is not plain device memory: cuPointerGetAttribute refuses host
 * memory and gives mapped memory's other address. */
#define MAX_RANGES 64
static struct {
    uint64_t start, size, device_address;
    int mapped;
} ranges[MAX_RANGES];
static atomic_int range_count;

/* Streams that are being captured into a graph, and the devices they are of. */
#define MAX_CAPTURES 64
static struct {
    uint64_t stream;
    int device;
} captures[MAX_CAPTURES];
static atomic_int capture_count;
static pthread_mutex_t capture_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int capture_mode; /* CU_STREAM_CAPTURE_MODE_GLOBAL at first */

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

EXPORT void lowlat_null_fail(const char *name, CUresult result, int times, int after)
{
    atomic_store(&failure.times, 0);
    snprintf(failure.name, sizeof failure.name, "%s", name);
    failure.result = result;
    atomic_store(&failure.after, after);
    atomic_store(&failure.times, times);
}

/* Returns non-zero when there is no room for another range. */
EXPORT int lowlat_null_add_memory(uint64_t start, uint64_t size, int mapped, uint64_t device_address)
{
    int count = atomic_load(&range_count);
    if (count == MAX_RANGES)
        return CUDA_ERROR_INVALID_VALUE;
    ranges[count].start = start;
    ranges[count].size = size;
    ranges[count].mapped = mapped;
    ranges[count].device_address = device_address;
    atomic_store(&range_count, count + 1);
    return CUDA_SUCCESS;
}

EXPORT void lowlat_null_clear_memory(void) { atomic_store(&range_count, 0); }

EXPORT uint64_t lowlat_null_graphs(void) { return atomic_load(&graph_count); }

EXPORT uint64_t lowlat_null_violations(void) { return atomic_load(&violation_count); }

EXPORT uint64_t lowlat_null_spoilt_captures(void) { return atomic_load(&spoilt_count); }

EXPORT void lowlat_null_linger(int yields) { atomic_store(&linger_yields, yields); }

/* Returns non-zero when there is no room for another stream. */
EXPORT int lowlat_null_set_capturing(uint64_t stream, int capturing, int device)
{
    int result = CUDA_SUCCESS, i = 0;
    pthread_mutex_lock(&capture_lock);
    int count = atomic_load(&capture_count);
    while (i < count && captures[i].stream != stream)
        ++i;
    if (capturing && i == MAX_CAPTURES) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (capturing) {
        captures[i].stream = stream;
        captures[i].device = device;
        count += i == count;
    } else if (i < count) {
        captures[i] = captures[--count];
    }
    atomic_store(&capture_count, count);
    pthread_mutex_unlock(&capture_lock);
    return result;
}

EXPORT void lowlat_null_set_green_stream(uint64_t stream) { atomic_store(&green_stream, stream); }

EXPORT void lowlat_null_clear_capturing(void)
{
    pthread_mutex_lock(&capture_lock);
    atomic_store(&capture_count, 0);
    pthread_mutex_unlock(&capture_lock);
}

EXPORT void lowlat_null_record(int enabled) { atomic_store(&recording, enabled); }

/* ---- events ------------------------------------------------------------- */

static int is_recording(void) { return atomic_load_explicit(&recording, memory_order_relaxed); }

/* Appends to an event, which may move.  NULL in, or no memory: NULL out. */
static null_event *put(null_event *event, const void *bytes, size_t size)
{
    if (event == NULL)
        return NULL;
    if (event->size + size > event->capacity) {
        size_t capacity = 2 * (event->size + size);
        null_event *larger = realloc(event, sizeof *event + capacity);
        if (larger == NULL) {
            free(event);
            return NULL;
        }
        event = larger;
        event->capacity = capacity;
    }
    memcpy(event->bytes + event->size, bytes, size);
    event->size += size;
    return event;
}

static null_event *put_word(null_event *event, uint32_t word) { return put(event, &word, sizeof word); }

static null_event *put_text(null_event *event, const char *text)
{
    size_t size = strlen(text);
    return put(put_word(event, (uint32_t)size), text, size);
}

static null_event *new_event(uint32_t kind, int device, uint64_t module)
{
    null_event *event = malloc(sizeof *event + 256);
    if (event == NULL)
        return NULL;
    event->next = NULL;
    event->size = 0;
    event->capacity = 256;
    return put(put_word(put_word(event, kind), (uint32_t)device), &module, sizeof module);
}

static CUresult keep(null_event *event)
{
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&event_lock);
    *events_tail = event;
    events_tail = &event->next;
    pthread_mutex_unlock(&event_lock);
    return CUDA_SUCCESS;
}

/* Takes the oldest event, or returns NULL; lowlat_null_free gives it back. */
EXPORT null_event *lowlat_null_take(const unsigned char **bytes, size_t *size)
{
    pthread_mutex_lock(&event_lock);
    null_event *event = events_head;
    if (event != NULL) {
        events_head = event->next;
        if (events_head == NULL)
            events_tail = &events_head;
        *bytes = event->bytes;
        *size = event->size;
    }
    pthread_mutex_unlock(&event_lock);
    return event;
}

EXPORT void lowlat_null_free(null_event *event) { free(event); }

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
static int read_layout(const null_module *module, const char *name, null_layout *layout)
{
    const char *image = module->image;
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    const char *names = image + sections[header->e_shstrndx].sh_offset;
    int found = 0;
    layout->count = 0;
    for (int i = 0; i < header->e_shnum; ++i) {
        const char *section = names + sections[i].sh_name;
        if (strncmp(section, ".text.", 6) == 0 && strcmp(section + 6, name) == 0)
            found = 1;
        if (strncmp(section, ".nv.info.", 9) != 0 || strcmp(section + 9, name) != 0)
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
                    while (layout->count <= ordinal) {
                        layout->offsets[layout->count] = 0;
                        layout->sizes[layout->count++] = 0;
                    }
                    layout->offsets[ordinal] = offset;
                    layout->sizes[ordinal] = (uint16_t)(packed >> 18);
                }
            }
            at += 4 + size;
        }
    }
    return found;
}

/* Every kernel of the image with its parameter layout, then the image. */
static null_event *describe_module(const null_module *module)
{
    null_layout *layout = malloc(sizeof *layout);
    if (layout == NULL)
        return NULL;
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)module->image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(module->image + header->e_shoff);
    const char *names = module->image + sections[header->e_shstrndx].sh_offset;
    null_event *event = new_event(EVENT_LOAD, module->context->device, module->number);
    uint32_t kernels = 0;
    for (int i = 0; i < header->e_shnum; ++i)
        kernels += strncmp(names + sections[i].sh_name, ".text.", 6) == 0;
    event = put_word(event, kernels);
    for (int i = 0; i < header->e_shnum; ++i) {
        const char *section = names + sections[i].sh_name;
        if (strncmp(section, ".text.", 6) != 0)
            continue;
        read_layout(module, section + 6, layout);
        event = put_word(put_text(event, section + 6), (uint32_t)layout->count);
        for (int j = 0; j < layout->count; ++j)
            event = put_word(put_word(event, layout->offsets[j]), layout->sizes[j]);
    }
    free(layout);
    return put(put_word(event, (uint32_t)module->image_size), module->image, module->image_size);
}

/* ---- capture ------------------------------------------------------------ */

/* 0 and CU_STREAM_LEGACY: the default stream, which waits for all others. */
static int is_legacy(CUstream stream) { return (uintptr_t)stream <= 1; }

/* What `stream` is to those captures: CUDA_SUCCESS, 900 for one that captures,
 * or 906 for the legacy stream while another of the current context does. */
static CUresult capture_state(CUstream stream)
{
    CUresult result = CUDA_SUCCESS;
    if (atomic_load_explicit(&capture_count, memory_order_acquire) == 0)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&capture_lock);
    for (int i = 0; i < atomic_load(&capture_count); ++i) {
        if (captures[i].stream == (uint64_t)(uintptr_t)stream)
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        else if (is_legacy(stream) && current_context != NULL && captures[i].device == current_context->device)
            result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    pthread_mutex_unlock(&capture_lock);
    return result;
}

/* ---- the driver's entry points ------------------------------------------ */

EXPORT CUresult cuInit(unsigned flags)
{
    (void)flags;
    ENTER();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
    ENTER();
    *version = 13000;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
    ENTER();
    *count = DEVICES;
    return CUDA_SUCCESS;
}

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
    ENTER();
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *device = current_context->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void)
{
    ENTER();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetLimit(size_t *value, int limit)
{
    (void)limit;
    ENTER();
    *value = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetLimit(int limit, size_t value)
{
    (void)limit;
    (void)value;
    ENTER();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
    (void)stream;
    ENTER();
    return CUDA_SUCCESS;
}

/* A stream is of the context that is current, but for the one said to be of a
 * green context. */
EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext *context)
{
    static struct null_context green;
    ENTER();
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    *context = stream != NULL && (uint64_t)stream == atomic_load(&green_stream) ? &green : current_context;
    return CUDA_SUCCESS;
}

/* Asking is no launch: it spoils no capture. */
EXPORT CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
    ENTER();
    if (is_legacy(stream) && current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    CUresult state = capture_state(stream);
    *status = state == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; /* CU_STREAM_CAPTURE_STATUS_ACTIVE is 1 */
    return state == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT ? state : CUDA_SUCCESS;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(int *mode)
{
    int before = capture_mode;
    ENTER();
    if (*mode < 0 || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    capture_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}

/* What may allocate is refused while any stream is captured, and spoils the
 * capture, but for threads in relaxed mode. */
static CUresult may_allocate(void)
{
    if (atomic_load(&capture_count) == 0 || capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_SUCCESS;
    atomic_fetch_add(&spoilt_count, 1);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
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
    module->number = atomic_fetch_add(&module_count, 1);
    *out = module;
    return is_recording() ? keep(describe_module(module)) : CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(null_module *module)
{
    ENTER();
    if (module->context == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult result = CUDA_SUCCESS;
    if (is_recording())
        result = keep(new_event(EVENT_UNLOAD, module->context->device, module->number));
    pthread_mutex_lock(&function_lock);
    free(module->image);
    module->image = NULL;
    module->context = NULL;
    module->unloaded = ++unloaded_count;
    pthread_mutex_unlock(&function_lock);
    return result;
}

/* A handle, of an unloaded module's function if there is one. */
static null_function *function_handle(void)
{
    null_function *function = NULL;
    for (null_function *other = functions; other != NULL; other = other->next)
        if (other->module->unloaded > (function == NULL ? 0 : function->module->unloaded))
            function = other;
    if (function != NULL) {
        free(function->name);
        free(function->offsets);
        return function;
    }
    function = malloc(sizeof *function);
    if (function != NULL) {
        function->next = functions;
        functions = function;
    }
    return function;
}

static null_function *new_function(null_module *module, const char *name, const null_layout *layout)
{
    size_t bytes = layout->count * sizeof(uint16_t);
    uint16_t *offsets = malloc(2 * bytes + 1);
    char *name_copy = strdup(name);
    null_function *function = NULL;
    if (offsets != NULL && name_copy != NULL) {
        pthread_mutex_lock(&function_lock);
        function = function_handle();
        if (function != NULL) {
            function->module = module;
            function->name = name_copy;
            function->parameter_count = layout->count;
            function->offsets = offsets;
            function->sizes = offsets + layout->count;
            memcpy(function->offsets, layout->offsets, bytes);
            memcpy(function->sizes, layout->sizes, bytes);
        }
        pthread_mutex_unlock(&function_lock);
    }
    if (function == NULL) {
        free(offsets);
        free(name_copy);
    }
    return function;
}

EXPORT CUresult cuModuleGetFunction(null_function **out, null_module *module, const char *name)
{
    ENTER();
    if (module->image == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    null_layout *layout = malloc(sizeof *layout);
    if (layout == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = CUDA_ERROR_NOT_FOUND;
    if (read_layout(module, name, layout)) {
        *out = new_function(module, name, layout);
        result = *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    free(layout);
    return result;
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

EXPORT CUresult cuFuncGetParamInfo(const null_function *function, size_t index, size_t *offset, size_t *size)
{
    ENTER();
    if (function == NULL || offset == NULL || index >= (size_t)function->parameter_count)
        return CUDA_ERROR_INVALID_VALUE;
    *offset = function->offsets[index];
    if (size != NULL)
        *size = function->sizes[index];
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
    ENTER();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuOccupancyMaxActiveClusters(int *clusters, null_function *function, const CUlaunchConfig *config)
{
    (void)function;
    (void)config;
    ENTER();
    *clusters = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuPointerGetAttribute(void *value, int attribute, uint64_t pointer)
{
    (void)attribute;
    ENTER();
    for (int i = atomic_load_explicit(&range_count, memory_order_acquire); i-- > 0;) {
        if (pointer - ranges[i].start >= ranges[i].size)
            continue;
        if (!ranges[i].mapped)
            return CUDA_ERROR_INVALID_VALUE;
        pointer += ranges[i].device_address - ranges[i].start;
        break;
    }
    memcpy(value, &pointer, sizeof pointer);
    return CUDA_SUCCESS;
}

/* A tensor map's 128 bytes say everything that it was made of, so that any two
 * that differ in anything differ.  Bit 21 of the second word is set: Triton 3.7
 * and later clear it for small tensors under drivers of this version. */
typedef struct {
    uint64_t address;
    uint8_t type, rank, mark, interleave, swizzle, promotion, fill, mode;
    uint64_t dimensions[5], strides[4];
    uint32_t box[5]; /* or, for im2col, channels and pixels */
    int8_t lower[3], upper[3];
    uint8_t element_strides[5];
} null_tensor_map;

_Static_assert(sizeof(null_tensor_map) <= 128, "a CUtensorMap is 128 bytes");

enum { TILED = 0, IM2COL = 1 };

/* What the driver's documentation demands of either kind. */
static CUresult encode(null_tensor_map *map, int mode, int type, uint32_t rank, void *address,
                       const uint64_t *dimensions, const uint64_t *strides, const uint32_t *element_strides,
                       int interleave, int swizzle, int promotion, int fill)
{
    memset(map, 0, sizeof *map);
    map->address = (uint64_t)(uintptr_t)address;
    map->type = (uint8_t)type;
    map->rank = (uint8_t)rank;
    map->mark = 1 << 5;
    map->interleave = (uint8_t)interleave;
    map->swizzle = (uint8_t)swizzle;
    map->promotion = (uint8_t)promotion;
    map->fill = (uint8_t)fill;
    map->mode = (uint8_t)mode;
    if (rank < 1 || rank > 5 || type < 0 || type > 15 || map->address % 16 != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (fill != 0 && type < 6) /* NaN into integers */
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < rank; ++i) {
        if (dimensions[i] == 0 || dimensions[i] > (1ull << 32) || element_strides[i] == 0 || element_strides[i] > 8)
            return CUDA_ERROR_INVALID_VALUE;
        map->dimensions[i] = dimensions[i];
        map->element_strides[i] = (uint8_t)element_strides[i];
        if (i + 1 == rank)
            break;
        if (strides[i] % 16 != 0 || strides[i] >= (1ull << 40))
            return CUDA_ERROR_INVALID_VALUE;
        map->strides[i] = strides[i];
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuTensorMapEncodeTiled(void *out, int type, uint32_t rank, void *address, const uint64_t *dimensions,
                                       const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,
                                       int interleave, int swizzle, int promotion, int fill)
{
    null_tensor_map map;
    ENTER();
    CUresult result = encode(&map, TILED, type, rank, address, dimensions, strides, element_strides, interleave,
                             swizzle, promotion, fill);
    if (result != CUDA_SUCCESS)
        return result;
    for (uint32_t i = 0; i < rank; ++i) {
        if (box[i] == 0 || box[i] > 256)
            return CUDA_ERROR_INVALID_VALUE;
        map.box[i] = box[i];
    }
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuTensorMapEncodeIm2col(void *out, int type, uint32_t rank, void *address, const uint64_t *dimensions,
                                        const uint64_t *strides, const int *lower, const int *upper, uint32_t channels,
                                        uint32_t pixels, const uint32_t *element_strides, int interleave, int swizzle,
                                        int promotion, int fill)
{
    null_tensor_map map;
    ENTER();
    CUresult result = encode(&map, IM2COL, type, rank, address, dimensions, strides, element_strides, interleave,
                             swizzle, promotion, fill);
    if (result != CUDA_SUCCESS)
        return result;
    if (rank < 3 || channels == 0 || channels > 256 || pixels == 0 || pixels > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    map.box[0] = channels;
    map.box[1] = pixels;
    for (uint32_t i = 0; i + 2 < rank; ++i) {
        map.lower[i] = (int8_t)lower[i];
        map.upper[i] = (int8_t)upper[i];
    }
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult result, const char **text)
{
    switch (result) {
    case CUDA_SUCCESS: *text = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_NOT_INITIALIZED: *text = "initialization error"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    case CUDA_ERROR_INVALID_HANDLE: *text = "invalid resource handle"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case 700: *text = "an illegal memory access was encountered"; break;
    case 701: *text = "too many resources requested for launch"; break;
    case 719: *text = "unspecified launch failure"; break;
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
        *text = "operation not permitted when stream is capturing";
        break;
    case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
        *text = "operation would make the legacy stream depend on a capturing blocking stream";
        break;
    default: *text = "unrecognized error code"; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static int tensor_maps_are_aligned(const null_function *function, void **parameters)
{
    for (int i = 0; i < function->parameter_count; ++i)
        if (function->sizes[i] == 128 && (uintptr_t)parameters[i] % 64 != 0)
            return 0;
    return 1;
}

static CUresult record_launch(uint32_t call, const CUlaunchConfig *config, const null_function *function,
                              void **parameters)
{
    uint64_t stream = (uint64_t)(uintptr_t)config->stream;
    if (!tensor_maps_are_aligned(function, parameters))
        return CUDA_ERROR_INVALID_VALUE;
    null_event *event = new_event(EVENT_LAUNCH, current_context->device, function->module->number);
    event = put_word(put_text(event, function->name), call);
    event = put(put(event, config->grid, sizeof config->grid), config->block, sizeof config->block);
    event = put(put_word(event, config->shared), &stream, sizeof stream);
    event = put_word(event, config->attribute_count);
    for (uint32_t i = 0; i < config->attribute_count; ++i)
        event = put(put_word(event, config->attributes[i].id), config->attributes[i].value.bytes, 12);
    event = put_word(event, (uint32_t)function->parameter_count);
    for (int i = 0; i < function->parameter_count; ++i)
        event = put(put_word(event, function->sizes[i]), parameters[i], function->sizes[i]);
    return keep(event);
}

static CUresult launch(uint32_t call, const CUlaunchConfig *config, const null_function *function, void **parameters)
{
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (function->module->context != current_context)
        return CUDA_ERROR_INVALID_HANDLE;
    if (capture_state(config->stream) == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) {
        atomic_fetch_add(&spoilt_count, 1);
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    atomic_fetch_add_explicit(&launch_count, 1, memory_order_relaxed);
    return is_recording() ? record_launch(call, config, function, parameters) : CUDA_SUCCESS;
}

/* `extra` is the other way to pass parameters: one buffer laid out as the
 * kernel reads it, and its size.  Into `pointers`, where each parameter is. */
static CUresult find_parameters(const null_function *function, void **parameters, void **extra, void **pointers)
{
    int count = function->parameter_count;
    char *buffer = NULL;
    size_t size = 0;
    if (extra == NULL) {
        if (parameters == NULL && count > 0)
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(pointers, parameters, count * sizeof *pointers);
        return CUDA_SUCCESS;
    }
    if (parameters != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (; *extra != NULL; extra += 2) { /* CU_LAUNCH_PARAM_END, _BUFFER_POINTER, _BUFFER_SIZE: 0, 1, 2 */
        if (*extra == (void *)1)
            buffer = extra[1];
        else if (*extra == (void *)2)
            size = *(size_t *)extra[1];
    }
    if (buffer == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (count > 0 && size != (size_t)function->offsets[count - 1] + function->sizes[count - 1])
        return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < count; ++i)
        pointers[i] = buffer + function->offsets[i];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction handle, void **parameters, void **extra)
{
    const null_function *function = (const null_function *)handle;
    void *pointers[MAX_PARAMETERS];
    ENTER();
    if (extra == NULL || (parameters == NULL && !is_recording()))
        return launch(BY_LAUNCH_KERNEL_EX, config, function, parameters);
    CUresult result = find_parameters(function, parameters, extra, pointers);
    return result != CUDA_SUCCESS ? result : launch(BY_LAUNCH_KERNEL_EX, config, function, pointers);
}

EXPORT CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **parameters,
                               void **extra)
{
    const null_function *function = (const null_function *)handle;
    CUlaunchConfig config = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, NULL, 0};
    void *pointers[MAX_PARAMETERS];
    ENTER();
    if (extra == NULL)
        return launch(BY_LAUNCH_KERNEL, &config, function, parameters);
    CUresult result = find_parameters(function, parameters, extra, pointers);
    return result != CUDA_SUCCESS ? result : launch(BY_LAUNCH_KERNEL, &config, function, pointers);
}

/* ---- graphs ------------------------------------------------------------- */

/* What graphs and executable graphs begin with.  Neither may be in the hands
 * of two threads at once, nor be used after its destruction: either is counted.
 * So that a use after destruction is an error and not a crash, this much of
 * each (and of each node) outlives it. */
typedef struct {
    atomic_int inside;
    atomic_int alive;
    pid_t process; /* a handle is nothing in a forked child */
} null_guard;

/* A kernel node's launch.  `parameters` and the bytes that it points to are one
 * block of memory. */
typedef struct {
    const null_function *function;
    const null_module *module; /* the function's, when the node was given it */
    CUcontext context;         /* and that module's */
    CUlaunchConfig config;
    void **parameters;
} null_call;

struct CUgraph_st {
    null_guard guard;
    size_t count;
    null_call *calls; /* in the order of their addition, which is a topological one */
    int unordered;    /* a node besides the first waits for none */
};

struct CUgraphNode_st {
    CUgraph graph;
    size_t index;
};

struct CUgraphExec_st {
    null_guard guard;
    CUgraph graph;
    size_t count;
    null_call *calls;
    int launched; /* at least once */
    int unordered;
};

static CUresult violation(void)
{
    atomic_fetch_add(&violation_count, 1);
    return CUDA_ERROR_INVALID_VALUE;
}

static void open_guard(null_guard *guard)
{
    atomic_init(&guard->inside, 0);
    atomic_init(&guard->alive, 1);
    guard->process = getpid();
}

/* A second thread is counted and then waits: what it does next stays defined here. */
static CUresult enter(null_guard *guard)
{
    if (atomic_exchange(&guard->inside, 1)) {
        violation();
        while (atomic_exchange(&guard->inside, 1))
            sched_yield();
    }
    for (int i = atomic_load_explicit(&linger_yields, memory_order_relaxed); i-- > 0;)
        sched_yield();
    if (atomic_load(&guard->alive) && guard->process == getpid())
        return CUDA_SUCCESS;
    atomic_store(&guard->inside, 0);
    return violation();
}

static CUresult leave(null_guard *guard, CUresult result)
{
    atomic_store(&guard->inside, 0);
    return result;
}

static int is_launchable(const CUkernelNodeParams *params)
{
    const uint32_t *grid = params->grid, *block = params->block;
    return grid[0] > 0 && grid[1] > 0 && grid[2] > 0 && grid[0] <= INT32_MAX && grid[1] <= 65535 && grid[2] <= 65535 &&
           block[0] > 0 && block[1] > 0 && block[2] > 0 && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 &&
           block[0] * block[1] * block[2] <= 1024;
}

/* The first place from `at` on for a parameter of `size` bytes: tensor maps are
 * aligned to 64, as record_launch demands of them. */
static size_t placed(size_t at, size_t size)
{
    size_t alignment = size == 128 ? 64 : 8;
    return (at + alignment - 1) / alignment * alignment;
}

/* Fills `call` with copies of all that `params` names. */
static CUresult copy_call(null_call *call, const CUkernelNodeParams *params)
{
    const null_function *function = (const null_function *)params->function;
    size_t count = function->parameter_count, at = count * sizeof(void *);
    void *pointers[MAX_PARAMETERS];
    CUresult result = find_parameters(function, params->parameters, params->extra, pointers);
    if (result != CUDA_SUCCESS)
        return result;
    if (params->kernel != NULL || !is_launchable(params) || !tensor_maps_are_aligned(function, pointers))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; ++i)
        at = placed(at, function->sizes[i]) + function->sizes[i];
    char *block = aligned_alloc(64, (at / 64 + 1) * 64);
    if (block == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(call, 0, sizeof *call);
    call->function = function;
    call->module = function->module;
    call->context = function->module->context;
    memcpy(call->config.grid, params->grid, sizeof params->grid);
    memcpy(call->config.block, params->block, sizeof params->block);
    call->config.shared = params->shared;
    call->parameters = (void **)block;
    at = count * sizeof(void *);
    for (size_t i = 0; i < count; ++i) {
        at = placed(at, function->sizes[i]);
        call->parameters[i] = memcpy(block + at, pointers[i], function->sizes[i]);
        at += function->sizes[i];
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphCreate(CUgraph *out, unsigned flags)
{
    ENTER();
    if (out == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraph graph = calloc(1, sizeof *graph);
    if (graph == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    open_guard(&graph->guard);
    *out = graph;
    return CUDA_SUCCESS;
}

static CUresult add_kernel(CUgraphNode *out, CUgraph graph, const CUgraphNode *dependencies, size_t dependency_count,
                           const CUkernelNodeParams *params)
{
    for (size_t i = 0; i < dependency_count; ++i) {
        if (dependencies[i] == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        if (!atomic_load(&dependencies[i]->graph->guard.alive))
            return violation();
        if (dependencies[i]->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
        for (size_t j = 0; j < i; ++j)
            if (dependencies[j] == dependencies[i])
                return CUDA_ERROR_INVALID_VALUE;
    }
    null_call *calls = realloc(graph->calls, (graph->count + 1) * sizeof *calls);
    if (calls == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    graph->calls = calls;
    CUgraphNode node = malloc(sizeof *node);
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = copy_call(&calls[graph->count], params);
    if (result != CUDA_SUCCESS) {
        free(node);
        return result;
    }
    node->graph = graph;
    node->index = graph->count++;
    *out = node;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *dependencies,
                                        size_t dependency_count, const CUkernelNodeParams *params)
{
    ENTER();
    if (out == NULL || graph == NULL || params == NULL || params->function == NULL ||
        (dependencies == NULL && dependency_count > 0))
        return CUDA_ERROR_INVALID_VALUE;
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (((const null_function *)params->function)->module->context != current_context)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult result = enter(&graph->guard);
    if (result != CUDA_SUCCESS)
        return result;
    graph->unordered |= graph->count > 0 && dependency_count == 0;
    return leave(&graph->guard, add_kernel(out, graph, dependencies, dependency_count, params));
}

static void free_calls(null_call *calls, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        free(calls[i].parameters);
    free(calls);
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph)
{
    CUresult result = may_allocate();
    CUgraphExec exec = calloc(1, sizeof *exec);
    null_call *calls = calloc(graph->count + 1, sizeof *calls);
    if (exec == NULL || calls == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < graph->count && result == CUDA_SUCCESS; ++i) {
        const null_call *call = &graph->calls[i];
        CUkernelNodeParams params = {(CUfunction)call->function, {0}, {0}, call->config.shared, call->parameters,
                                     NULL, NULL, NULL};
        memcpy(params.grid, call->config.grid, sizeof params.grid);
        memcpy(params.block, call->config.block, sizeof params.block);
        result = call->function->module != call->module || call->module->context == NULL
                     ? CUDA_ERROR_INVALID_HANDLE : copy_call(&calls[i], &params);
    }
    if (result != CUDA_SUCCESS) {
        free_calls(calls, calls == NULL ? 0 : graph->count);
        free(exec);
        return result;
    }
    open_guard(&exec->guard);
    exec->graph = graph;
    exec->count = graph->count;
    exec->unordered = graph->unordered;
    exec->calls = calls;
    atomic_fetch_add(&graph_count, 1);
    *out = exec;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    ENTER();
    if (out == NULL || graph == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = enter(&graph->guard);
    return result != CUDA_SUCCESS ? result : leave(&graph->guard, instantiate(out, graph));
}

/* A node of another graph, or one added since, is none of the executable
 * graph's; one whose graph is gone is gone with it. */
static CUresult set_parameters(CUgraphExec exec, CUgraphNode node, const CUkernelNodeParams *params)
{
    const null_function *function = (const null_function *)params->function;
    if (!atomic_load(&node->graph->guard.alive))
        return violation();
    if (node->graph != exec->graph || node->index >= exec->count)
        return CUDA_ERROR_INVALID_VALUE;
    if (function->module->context == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    null_call call, *old = &exec->calls[node->index];
    if (function->module->context != old->context)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = copy_call(&call, params);
    if (result != CUDA_SUCCESS)
        return result;
    free(old->parameters);
    *old = call;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node, const CUkernelNodeParams *params)
{
    ENTER();
    if (exec == NULL || node == NULL || params == NULL || params->function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = enter(&exec->guard);
    return result != CUDA_SUCCESS ? result : leave(&exec->guard, set_parameters(exec, node, params));
}

static CUresult launch_graph(CUgraphExec exec, CUstream stream)
{
    if (current_context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    for (size_t i = 0; i < exec->count; ++i) {
        const null_call *call = &exec->calls[i];
        if (call->function->module != call->module || call->module->context == NULL)
            return violation(); /* the kernel is unloaded, and its handle may be another's */
        if (call->context != current_context)
            return CUDA_ERROR_INVALID_HANDLE;
    }
    CUresult result = launches_fail();
    if (result != CUDA_SUCCESS)
        return result;
    result = capture_state(stream);
    if (result != CUDA_SUCCESS)
        atomic_fetch_add(&spoilt_count, 1);
    else if (!exec->launched)
        result = may_allocate(); /* the driver makes room for it on the device */
    exec->launched |= result == CUDA_SUCCESS;
    for (size_t i = 0; i < exec->count && result == CUDA_SUCCESS; ++i) {
        /* Nodes that need not wait may run in any order: here the last comes first. */
        const null_call *call = &exec->calls[exec->unordered ? exec->count - 1 - i : i];
        CUlaunchConfig config = call->config;
        config.stream = stream;
        result = launch(BY_GRAPH_LAUNCH, &config, call->function, call->parameters);
    }
    return result;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    ENTER();
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = enter(&exec->guard);
    return result != CUDA_SUCCESS ? result : leave(&exec->guard, launch_graph(exec, stream));
}

EXPORT CUresult cuGraphDestroy(CUgraph graph)
{
    ENTER();
    if (graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = enter(&graph->guard);
    if (result != CUDA_SUCCESS)
        return result;
    atomic_store(&graph->guard.alive, 0);
    free_calls(graph->calls, graph->count);
    graph->calls = NULL;
    return leave(&graph->guard, CUDA_SUCCESS);
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    ENTER();
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = enter(&exec->guard);
    if (result != CUDA_SUCCESS)
        return result;
    result = may_allocate(); /* nor free: driver 580 spoils the capture */
    if (result != CUDA_SUCCESS)
        return leave(&exec->guard, result);
    atomic_store(&exec->guard.alive, 0);
    free_calls(exec->calls, exec->count);
    exec->calls = NULL;
    atomic_fetch_sub(&graph_count, 1);
    return leave(&exec->guard, CUDA_SUCCESS);
}

/* ---- by name ------------------------------------------------------------ */

CUresult cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);
CUresult cuGetProcAddress(const char *, void **, int, uint64_t);

#define ENTRY(name) {#name, (void (*)(void))name}
static const struct {
    const char *name;
    void (*function)(void);
} entries[] = {
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet),
    ENTRY(cuDeviceGetAttribute), ENTRY(cuDevicePrimaryCtxRetain), ENTRY(cuCtxGetCurrent), ENTRY(cuCtxSetCurrent),
    ENTRY(cuCtxGetDevice), ENTRY(cuCtxSynchronize), ENTRY(cuCtxGetLimit), ENTRY(cuCtxSetLimit),
    ENTRY(cuStreamSynchronize), ENTRY(cuStreamGetCtx), ENTRY(cuStreamIsCapturing),
    ENTRY(cuThreadExchangeStreamCaptureMode),
    ENTRY(cuModuleLoadData), ENTRY(cuModuleUnload),
    ENTRY(cuModuleGetFunction), ENTRY(cuFuncGetAttribute), ENTRY(cuFuncGetParamInfo), ENTRY(cuFuncSetAttribute),
    ENTRY(cuFuncSetCacheConfig),
    ENTRY(cuOccupancyMaxActiveClusters), ENTRY(cuPointerGetAttribute), ENTRY(cuTensorMapEncodeTiled),
    ENTRY(cuTensorMapEncodeIm2col), ENTRY(cuGetErrorString), ENTRY(cuLaunchKernelEx), ENTRY(cuLaunchKernel),
    ENTRY(cuGraphCreate), ENTRY(cuGraphAddKernelNode_v2), ENTRY(cuGraphInstantiateWithFlags),
    ENTRY(cuGraphExecKernelNodeSetParams_v2), ENTRY(cuGraphLaunch), ENTRY(cuGraphDestroy), ENTRY(cuGraphExecDestroy),
    {"cuGetProcAddress", (void (*)(void))cuGetProcAddress_v2},
};

/* The entry points' names, one after the other; NULL behind the last. */
EXPORT const char *lowlat_null_entry(size_t index)
{
    return index < sizeof entries / sizeof *entries ? entries[index].name : NULL;
}

EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    (void)version;
    (void)flags;
    CUresult result = injected("cuGetProcAddress");
    if (result != CUDA_SUCCESS)
        return result;
    *function = NULL;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; ++i)
        if (strcmp(entries[i].name, symbol) == 0)
            memcpy(function, &entries[i].function, sizeof *function);
    if (status != NULL)
        *status = *function == NULL; /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND is 1 */
    return *function == NULL ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

EXPORT CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}
