/* Reading a torch.Tensor from C without building against torch.
 *
 * Three rungs, best first; which one is used is decided by a self-check in
 * lowlat/_torch.py, against data_ptr() and dtype on probe tensors:
 *
 *   shim    libtorch's C ABI (aoti_torch_*), on the at::Tensor inside the
 *           Python object.  Only the place of that at::Tensor is not public;
 *           the self-check finds it by Tensor._cdata, without following it.
 *   dlpack  the DLPack C exchange API of the tensor type.
 *   python  the methods data_ptr() and the attributes dtype and device.
 *
 * The first two call the same Tensor::data_ptr() as the Python method, so a
 * copy-on-write tensor is materialised and an empty one reads as null.
 */
#ifndef LOWLAT_TORCH_H
#define LOWLAT_TORCH_H

#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>

enum { LOWLAT_RUNG_NONE = 0, LOWLAT_RUNG_SHIM = 1, LOWLAT_RUNG_DLPACK = 2, LOWLAT_RUNG_PYTHON = 3 };

/* c10::DeviceType and DLDeviceType agree on these two up to a shift. */
enum { LOWLAT_DEVICE_CPU = 0, LOWLAT_DEVICE_CUDA = 1 };

typedef struct {
    uint64_t pointer;
    int32_t dtype;  /* c10::ScalarType */
    int32_t device; /* c10::DeviceType */
    int32_t index;  /* of the device; read where there is more than one */
    int32_t small;  /* 1 where 32-bit offsets reach all of its storage; read where the backend asks for that */
} lowlat_tensor;

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t dtype_code, dtype_bits;
    uint16_t dtype_lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} lowlat_dltensor;

typedef struct lowlat_dlpack_header {
    uint32_t major, minor;
    struct lowlat_dlpack_header *previous;
} lowlat_dlpack_header;

typedef struct {
    lowlat_dlpack_header header;
    void *managed_tensor_allocator;
    void *managed_tensor_from_py_object;
    void *managed_tensor_to_py_object;
    int (*dltensor_from_py_object)(void *, lowlat_dltensor *);
    int (*current_work_stream)(int32_t, int32_t, void **);
} lowlat_dlpack_api;

static struct {
    int rung;
    Py_ssize_t offset; /* of the at::Tensor in the Python object */
    /* Up to torch 2.11 or so the place holds a c10::MaybeOwned: a flag, then
     * the tensor.  With the flag set it is a reference to one elsewhere. */
    int maybe_borrowed;
    int32_t (*data_ptr)(void *, void **);
    int32_t (*dtype)(void *, int32_t *);
    int32_t (*device_type)(void *, int32_t *);
    int32_t (*device_index)(void *, int32_t *);
    int32_t (*storage_size)(void *, int64_t *);
    const lowlat_dlpack_api *dlpack;
    _Bool (*function_mode_enabled)(void);
    /* Which device types count as "on the GPU": CUDA, and with the null driver
     * the CPU, whose tensors then stand in. */
    uint32_t devices;
    /* Whether the backend specialises on the size of a tensor's storage (AMD). */
    int ranged;
} lowlat_torch = {.devices = 1u << LOWLAT_DEVICE_CUDA};

/* ---- the current device and stream ---------------------------------------- */

/* From torch's CUDA libraries, or from the null driver. */
static struct {
    signed char (*torch_device)(void);               /* c10::cuda::current_device() */
    int32_t (*torch_stream)(int32_t, void **);       /* aoti_torch_get_current_cuda_stream */
    int (*null_device)(void);
    void *(*null_stream)(int);
    int only_device;                                 /* one device is visible: it is number 0 */
} lowlat_current;

static inline int lowlat_on_device(int32_t device)
{
    return (uint32_t)device < 32 && ((lowlat_torch.devices >> device) & 1u);
}

static inline int lowlat_function_mode_enabled(void) { return lowlat_torch.function_mode_enabled(); }

/* Whether a tensor lives on a GPU that is not `current`. */
static inline int lowlat_elsewhere(const lowlat_tensor *tensor, int current)
{
    return !lowlat_current.only_device && tensor->device == LOWLAT_DEVICE_CUDA && tensor->index != current;
}

static inline int lowlat_shim_read_range(void *place, lowlat_tensor *tensor)
{
    int64_t size;
    if (lowlat_torch.storage_size(place, &size) != 0)
        return 1;
    tensor->small = size <= INT32_MAX;
    return 0;
}

/* 0, or 1 when this tensor cannot be read by the shim. */
static inline int lowlat_shim_read(PyObject *object, lowlat_tensor *tensor)
{
    char *place = (char *)object + lowlat_torch.offset;
    if (lowlat_torch.maybe_borrowed && place[-(Py_ssize_t)sizeof(void *)])
        return 1;
    return lowlat_torch.device_type(place, &tensor->device) != 0 ||
           lowlat_torch.dtype(place, &tensor->dtype) != 0 ||
           (tensor->device == LOWLAT_DEVICE_CUDA && !lowlat_current.only_device &&
            lowlat_torch.device_index(place, &tensor->index) != 0) ||
           (lowlat_torch.ranged && lowlat_shim_read_range(place, tensor) != 0) ||
           /* Last, and only on a device tensor: it may materialise. */
           (lowlat_on_device(tensor->device) && lowlat_torch.data_ptr(place, (void **)&tensor->pointer) != 0);
}

/* The address alone, of a tensor that was read before: 0, or 1 as above. */
static inline int lowlat_shim_pointer(PyObject *object, uint64_t *pointer)
{
    char *place = (char *)object + lowlat_torch.offset;
    if (lowlat_torch.maybe_borrowed && place[-(Py_ssize_t)sizeof(void *)])
        return 1;
    return lowlat_torch.data_ptr(place, (void **)pointer) != 0;
}

/* The dtype alone, of a tensor anywhere: 0, or 1 as above. */
static inline int lowlat_shim_dtype(PyObject *object, int32_t *dtype)
{
    char *place = (char *)object + lowlat_torch.offset;
    if (lowlat_torch.maybe_borrowed && place[-(Py_ssize_t)sizeof(void *)])
        return 1;
    return lowlat_torch.dtype(place, dtype) != 0;
}

/* DLPack's (code, bits) as c10::ScalarType, -1 where lowlat knows none. */
static inline int32_t lowlat_dlpack_dtype(uint8_t code, uint8_t bits)
{
    switch (code << 8 | bits) {
    case 0 << 8 | 8: return 1;    /* int8 */
    case 0 << 8 | 16: return 2;   /* int16 */
    case 0 << 8 | 32: return 3;   /* int32 */
    case 0 << 8 | 64: return 4;   /* int64 */
    case 1 << 8 | 8: return 0;    /* uint8 */
    case 1 << 8 | 16: return 27;  /* uint16 */
    case 1 << 8 | 32: return 28;  /* uint32 */
    case 1 << 8 | 64: return 29;  /* uint64 */
    case 2 << 8 | 16: return 5;   /* float16 */
    case 2 << 8 | 32: return 6;   /* float32 */
    case 2 << 8 | 64: return 7;   /* float64 */
    case 4 << 8 | 16: return 15;  /* bfloat16 */
    case 6 << 8 | 8: return 11;   /* bool */
    case 10 << 8 | 8: return 24;  /* float8_e4m3fn */
    case 11 << 8 | 8: return 26;  /* float8_e4m3fnuz */
    case 12 << 8 | 8: return 23;  /* float8_e5m2 */
    case 13 << 8 | 8: return 25;  /* float8_e5m2fnuz */
    default: return -1;
    }
}

/* 0, or -1 with torch's exception set (a dtype DLPack lacks, a conj view). */
static inline int lowlat_dlpack_read(PyObject *object, lowlat_tensor *tensor)
{
    lowlat_dltensor view = {0};
    if (lowlat_torch.dlpack->dltensor_from_py_object(object, &view) != 0)
        return -1;
    tensor->pointer = (uint64_t)(uintptr_t)view.data + view.byte_offset;
    tensor->dtype = view.dtype_lanes == 1 ? lowlat_dlpack_dtype(view.dtype_code, view.dtype_bits) : -1;
    tensor->device = view.device_type == 1 ? LOWLAT_DEVICE_CPU : view.device_type == 2 || view.device_type == 10
                         ? LOWLAT_DEVICE_CUDA : -1; /* ROCm's tensors are of torch's device type "cuda" */
    tensor->index = view.device_id;
    return 0;
}

static inline int lowlat_current_device(void)
{
    if (lowlat_current.only_device)
        return 0;
    if (lowlat_current.null_device != NULL)
        return lowlat_current.null_device();
    return lowlat_current.torch_device();
}

/* 0 and `*stream`, or torch's error code. */
static inline int lowlat_current_stream(int device, void **stream)
{
    if (lowlat_current.null_stream != NULL) {
        *stream = lowlat_current.null_stream(device);
        return 0;
    }
    return lowlat_current.torch_stream(device, stream);
}

#endif
