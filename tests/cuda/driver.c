/* A CUDA driver, runtime and cuBLAS without a GPU: device memory is host memory, kernels do nothing.
 *
 * Enough for ONNX Runtime to open its CUDA provider, place nodes, bind buffers, run, and capture and launch graphs, and
 * for a test to see what it did. What kernels would have computed is not there: numbers mean nothing.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2 };
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2 };

static size_t number(const char *name, size_t usual) {
    const char *given = getenv(name);
    return given ? strtoull(given, NULL, 10) : usual;
}

#ifdef DRIVER
static Status put(int *where, int value) { *where = value; return SUCCESS; }
Status cuInit(unsigned flags) { return number("STUB_GPUS", 1) ? SUCCESS : 100; }
Status cuDeviceGetCount(int *count) { return put(count, (int)number("STUB_GPUS", 1)); }
Status cuDeviceGet(int *device, int index) { return put(device, index); }
Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = (int)number("STUB_CAPABILITY", 80);
    return put(value, attribute == 75 ? capability / 10 : capability % 10);
}
#endif

#ifdef CUBLAS
Status cublasCreate_v2(void **handle) { return (*handle = malloc(8)) ? SUCCESS : OUT_OF_MEMORY; }
#endif

#ifdef CUBLASLT
Status cublasLtCreate(void **handle) { return (*handle = malloc(8)) ? SUCCESS : OUT_OF_MEMORY; }
#endif

#ifdef CUDART
/* What tests look at: kernels, those that were captured, captured graphs and their launches, copies to the device and from it. A capture must
 * neither wait for the device nor allocate: `stub_forbidden` counts what did. */
int stub_kernels, stub_captured, stub_captures, stub_launches, stub_sent, stub_fetched, stub_forbidden;
static int capturing;
static void *module;

static Status forbidden(void) { stub_forbidden += capturing; return SUCCESS; }
static Status fresh(void **where) { return (*where = malloc(8)) ? SUCCESS : OUT_OF_MEMORY; }

Status cudaGetDeviceCount(int *count) { *count = (int)number("STUB_GPUS", 1); return SUCCESS; }
Status cudaGetDevice(int *device) { *device = 0; return SUCCESS; }
Status cudaDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Status cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
Status cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 0; return SUCCESS; }

/* cudaDeviceProp of CUDA 13, by offset: only what is read before a kernel is chosen. */
Status cudaGetDeviceProperties(char *properties, int device) {
    int capability = (int)number("STUB_CAPABILITY", 80);
    memset(properties, 0, 640);
    strcpy(properties, "stub");
    *(size_t *)(properties + 288) = number("STUB_BYTES", (size_t)16 << 30); /* totalGlobalMem */
    *(size_t *)(properties + 296) = 49152;                                  /* sharedMemPerBlock */
    *(int *)(properties + 304) = 65536;                                     /* regsPerBlock */
    *(int *)(properties + 308) = 32;                                        /* warpSize */
    *(int *)(properties + 320) = 1024;                                      /* maxThreadsPerBlock */
    for (int axis = 0; axis < 3; axis++) {
        *(int *)(properties + 324 + 4 * axis) = 1024;                       /* maxThreadsDim */
        *(int *)(properties + 336 + 4 * axis) = axis ? 65535 : 2147483647;  /* maxGridSize */
    }
    *(int *)(properties + 360) = capability / 10;                           /* major */
    *(int *)(properties + 364) = capability % 10;                           /* minor */
    *(int *)(properties + 384) = 16;                                        /* multiProcessorCount */
    return SUCCESS;
}

Status cudaMalloc(void **memory, size_t bytes) {
    forbidden();
    if (bytes > number("STUB_BYTES", (size_t)16 << 30)) return OUT_OF_MEMORY;
    return (*memory = aligned_alloc(256, (bytes + 511) / 256 * 256)) ? SUCCESS : OUT_OF_MEMORY;
}
Status cudaMallocHost(void **memory, size_t bytes) { return cudaMalloc(memory, bytes); }
Status cudaHostAlloc(void **memory, size_t bytes, unsigned flags) { return cudaMalloc(memory, bytes); }
Status cudaFree(void *memory) { free(memory); return forbidden(); }
Status cudaFreeHost(void *memory) { free(memory); return forbidden(); }
Status cudaMemGetInfo(size_t *available, size_t *all) {
    *available = *all = number("STUB_BYTES", (size_t)16 << 30);
    return SUCCESS;
}
static void copy(void *to, const void *from, size_t bytes, int kind) {
    memmove(to, from, bytes);
    stub_sent += kind == HOST_TO_DEVICE;
    stub_fetched += kind == DEVICE_TO_HOST;
}
Status cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    copy(to, from, bytes, kind);
    return forbidden();
}
Status cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    copy(to, from, bytes, kind);
    return kind == DEVICE_TO_HOST ? forbidden() : SUCCESS;
}
Status cudaMemset(void *to, int value, size_t bytes) { memset(to, value, bytes); return forbidden(); }
Status cudaMemsetAsync(void *to, int value, size_t bytes, void *stream) { memset(to, value, bytes); return SUCCESS; }

Status cudaStreamCreate(void **stream) { return fresh(stream); }
Status cudaStreamCreateWithFlags(void **stream, unsigned flags) { return fresh(stream); }
Status cudaStreamSynchronize(void *stream) { return forbidden(); }
Status cudaDeviceSynchronize(void) { return forbidden(); }
Status cudaEventCreate(void **event) { return fresh(event); }
Status cudaEventCreateWithFlags(void **event, unsigned flags) { return fresh(event); }
Status cudaEventSynchronize(void *event) { return forbidden(); }

Status cudaStreamBeginCapture(void *stream, int mode) { stub_captures++; capturing = 1; return SUCCESS; }
Status cudaStreamEndCapture(void *stream, void **graph) { capturing = 0; return fresh(graph); }
Status cudaStreamIsCapturing(void *stream, int *status) { *status = capturing; return SUCCESS; }
Status cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) { return fresh(executable); }
Status cudaGraphLaunch(void *executable, void *stream) { stub_launches++; return SUCCESS; }

static Status kernel(void) { stub_kernels++; stub_captured += capturing; return SUCCESS; }
Status cudaLaunchKernel(void) { return kernel(); }
Status __cudaLaunchKernel(void) { return kernel(); }
Status cudaLaunchKernelExC(void) { return kernel(); }
void **__cudaRegisterFatBinary(void *binary) { return &module; }
const char *cudaGetErrorString(Status status) { return status == OUT_OF_MEMORY ? "out of memory" : "no error"; }
const char *cudaGetErrorName(Status status) { return status == OUT_OF_MEMORY ? "out of memory" : "no error"; }
#endif
