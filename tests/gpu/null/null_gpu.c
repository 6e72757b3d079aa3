/* A GPU that is not there: CUDA's runtime, driver, cuBLAS, NCCL and NVML as far as PyTorch and vLLM call them, doing nothing.
 *
 * Preloaded, it makes PyTorch's CUDA build see one H100, or several. Kernels, products and exchanges return at once, so
 * values are garbage. What the host does is real: PyTorch's allocator and what it counts, compiling with Triton, checks of
 * types, shapes and devices, and every wait. `launch.py` builds it, with a function that returns 0 for each further name
 * that PyTorch's libraries, and those of vLLM's CUDA build, want.
 *
 * Memory is address space without pages. Copies of up to a MiB are real, so that offsets and lengths mean something;
 * larger ones are left out, and a norm that the host reads is finite. Only one process is counted. No code here waits for
 * anything, or knows more of a stream than its device, and which one records a graph. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <driver_types.h>
#include <vector_types.h>
#undef cudaGetDeviceProperties /* some headers rename it */

#define NAME "NVIDIA H100 80GB HBM3 (null)"
#define MEMORY (80ull << 30)
#define SPAN (16ull << 40)
#define PIECE (2ull << 20)
#define COPIED (1u << 20)
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, UNSUPPORTED = 3, NO_SUCH_DEVICE = 101, INVALID_HANDLE = 400, CUDA_VERSION = 13000 };

/* --- memory: pieces of one reserved span, never given out twice --- */

typedef struct piece {
  char *start;
  size_t size;
  struct piece *next;
} piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *span, *unused;
static size_t num_used;
static piece *pieces;

static size_t rounded(size_t size) { return (size + PIECE - 1) / PIECE * PIECE; }

static int is_of_gpu(const void *pointer) {
  return span && (const char *)pointer >= span && (const char *)pointer < span + SPAN;
}

static char *reserve(size_t size) {
  if (!span) {
    void *found = mmap(NULL, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) abort();
    span = unused = (char *)rounded((size_t)found);
  }
  char *start = unused;
  unused += rounded(size);
  return start;
}

static int take(size_t size) {
  if (num_used + size > MEMORY) return OUT_OF_MEMORY;
  num_used += size;
  return SUCCESS;
}

int cudaMalloc(void **pointer, size_t size) {
  size = rounded(size);
  pthread_mutex_lock(&lock);
  int status = take(size);
  if (status == SUCCESS) {
    piece *made = malloc(sizeof *made);
    *made = (piece){reserve(size), size, pieces};
    pieces = made;
    mprotect(made->start, size, PROT_READ | PROT_WRITE);
    *pointer = made->start;
  }
  pthread_mutex_unlock(&lock);
  return status;
}

static void release(char *start, size_t size) {
  madvise(start, size, MADV_DONTNEED);
  mprotect(start, size, PROT_NONE);
}

int cudaFree(void *pointer) {
  pthread_mutex_lock(&lock);
  for (piece **each = &pieces; *each; each = &(*each)->next) {
    if ((*each)->start != pointer) continue;
    piece *gone = *each;
    *each = gone->next;
    num_used -= gone->size;
    release(gone->start, gone->size);
    free(gone);
    break;
  }
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}

int cudaMemGetInfo(size_t *free_bytes, size_t *all) {
  *free_bytes = MEMORY - num_used;
  *all = MEMORY;
  return SUCCESS;
}

/* Segments that grow: addresses first, memory later. A handle is its size. */
int cuMemAddressReserve(char **pointer, size_t size, size_t alignment, char *wanted, unsigned long long flags) {
  pthread_mutex_lock(&lock);
  *pointer = reserve(size);
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}
int cuMemCreate(size_t *handle, size_t size, const void *properties, unsigned long long flags) {
  pthread_mutex_lock(&lock);
  int status = take(*handle = size);
  pthread_mutex_unlock(&lock);
  return status;
}
int cuMemRelease(size_t handle) {
  pthread_mutex_lock(&lock);
  num_used -= handle;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}
int cuMemMap(char *pointer, size_t size, size_t offset, size_t handle, unsigned long long flags) {
  return mprotect(pointer, size, PROT_READ | PROT_WRITE) ? OUT_OF_MEMORY : SUCCESS;
}
int cuMemUnmap(char *pointer, size_t size) { return release(pointer, size), SUCCESS; }
int cuMemGetAllocationGranularity(size_t *size, const void *properties, int kind) { return *size = PIECE, SUCCESS; }

/* A float32 by itself that the host reads may be garbage, but not what ends a training: an infinity or no number. */
static int copied(void *to, const void *from, size_t size) {
  const unsigned infinity = 0x7f800000;
  if (size <= COPIED)
    memcpy(to, from, size);
  else if (!is_of_gpu(to))
    memset(to, 0, size);
  if (size == sizeof infinity && !is_of_gpu(to) && (*(unsigned *)to & infinity) == infinity) memset(to, 0, size);
  return SUCCESS;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { return copied(to, from, size); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return copied(to, from, size); }
int cudaMemsetAsync(void *pointer, int value, size_t size, void *stream) {
  if (size <= COPIED) memset(pointer, value, size);
  return SUCCESS;
}
int cudaMemset(void *pointer, int value, size_t size) { return cudaMemsetAsync(pointer, value, size, NULL); }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return (*pointer = malloc(size)) ? SUCCESS : OUT_OF_MEMORY; }
int cudaFreeHost(void *pointer) { return free(pointer), SUCCESS; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
  memset(found, 0, sizeof *found);
  found->type = is_of_gpu(pointer) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  found->devicePointer = found->hostPointer = (void *)pointer;
  return SUCCESS;
}
int cuPointerGetAttribute(void *found, int attribute, size_t pointer) {
  enum { MEMORY_TYPE = 2, DEVICE_POINTER = 3, ON_HOST = 1, ON_GPU = 2 };
  if (attribute == DEVICE_POINTER)
    *(size_t *)found = pointer;
  else
    *(int *)found = attribute != MEMORY_TYPE ? 0 : is_of_gpu((void *)pointer) ? ON_GPU : ON_HOST;
  return SUCCESS;
}

/* --- the device --- */

/* As many as NULL_GPUS says, one where it does not; a process sees those of CUDA_VISIBLE_DEVICES. */
static int installed(void) { return getenv("NULL_GPUS") ? atoi(getenv("NULL_GPUS")) : 1; }
static int visible(void) {
  const char *told = getenv("CUDA_VISIBLE_DEVICES");
  int count = told ? *told != 0 : installed();
  while (told && *told) count += *told++ == ',';
  return count;
}
int cudaGetDeviceCount(int *count) { return *count = visible(), SUCCESS; }
static __thread int current;
int cudaSetDevice(int device) { return device < visible() ? (current = device, SUCCESS) : NO_SUCH_DEVICE; }
int cudaGetDevice(int *device) { return *device = current, SUCCESS; }
int cudaDriverGetVersion(int *version) { return *version = CUDA_VERSION, SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = visible(), SUCCESS; }
int cuCtxGetCurrent(void **context) { return *context = (void *)8, SUCCESS; }
int cuCtxGetDevice(int *device) { return *device = current, SUCCESS; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)8, SUCCESS; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
  *flags = 0;
  return *is_active = 1, SUCCESS;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *of, int device) {
  memset(of, 0, sizeof *of);
  strcpy(of->name, NAME);
  of->totalGlobalMem = MEMORY;
  of->major = 9;
  of->multiProcessorCount = 132;
  of->warpSize = 32;
  of->maxThreadsPerBlock = of->maxThreadsDim[0] = of->maxThreadsDim[1] = 1024;
  of->maxThreadsDim[2] = 64;
  of->maxThreadsPerMultiProcessor = 2048;
  of->maxBlocksPerMultiProcessor = 32;
  of->maxGridSize[0] = 2147483647;
  of->maxGridSize[1] = of->maxGridSize[2] = 65535;
  of->sharedMemPerBlock = 49152;
  of->sharedMemPerBlockOptin = 232448;
  of->sharedMemPerMultiprocessor = 233472;
  of->regsPerBlock = of->regsPerMultiprocessor = 65536;
  of->l2CacheSize = 50 << 20;
  of->memoryBusWidth = 5120;
  of->textureAlignment = 512;
  of->unifiedAddressing = of->canMapHostMemory = of->concurrentKernels = of->cooperativeLaunch = 1;
  of->asyncEngineCount = 3;
  return SUCCESS;
}
static int attribute_of(int attribute) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrClockRate: return 1755000;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrMemoryClockRate: return 2619000;
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;
    case cudaDevAttrL2CacheSize: return 50 << 20;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrComputeCapabilityMinor: return 0;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 233472;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 232448;
    default: return 1;
  }
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute_of(attribute), SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute_of(attribute), SUCCESS; }
int cudaDeviceGetStreamPriorityRange(int *least, int *most) { return *least = 0, *most = -5, SUCCESS; }

/* --- streams, events, kernels: handles of nothing --- */

static int made(void **handle) { return (*handle = calloc(1, 256)) ? SUCCESS : OUT_OF_MEMORY; }
int cudaEventCreate(void **event) { return made(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return made(event); }
int cudaEventDestroy(void *event) { return free(event), SUCCESS; }
int cudaEventElapsedTime(float *ms, void *start, void *end) { return *ms = 0.001f, SUCCESS; }

/* A stream knows its device, and takes kernels of no other. */
int cudaStreamCreate(int **stream) { return made((void **)stream) ? OUT_OF_MEMORY : (**stream = current, SUCCESS); }
int cudaStreamCreateWithFlags(int **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(int **stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
static int launched(const int *stream) {
  return stream > (const int *)cudaStreamPerThread && *stream != current ? INVALID_HANDLE : SUCCESS;
}

/* One stream may record a graph, which is nothing to launch either. */
static void *recorded;
static unsigned long long recording;
int cudaStreamBeginCapture(void *stream, int mode) { return recorded = stream, ++recording, SUCCESS; }
int cudaStreamEndCapture(void *stream, void **graph) { return recorded = NULL, made(graph); }
int cudaStreamIsCapturing(void *stream, int *status) { return *status = recorded && stream == recorded, SUCCESS; }
int cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *id, void **graph, ...) {
  if (id) *id = recording;
  if (graph) *graph = (void *)24;
  return cudaStreamIsCapturing(stream, status);
}
int cudaGraphInstantiateWithFlags(void **runnable, void *graph, unsigned long long flags) { return made(runnable); }
int cudaGraphGetNodes(void *graph, void *nodes, size_t *count) { return *count = 1, SUCCESS; }

int cudaStreamGetPriority(void *stream, int *priority) { return *priority = 0, SUCCESS; }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) { return function(data), SUCCESS; }

int cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, int *stream) { return launched(stream); }
int __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, int *stream) { return launched(stream); }
int __cudaGetKernel(void **kernel, const void *entry) { return *kernel = (void *)entry, SUCCESS; }
int cudaLibraryLoadData(void **library, ...) { return made(library); }
int cudaLibraryGetKernel(void **kernel, ...) { return made(kernel); }
int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = 90;
  found->maxDynamicSharedSizeBytes = 232448;
  return SUCCESS;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, ...) { return *count = 2, SUCCESS; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, ...) { return *count = 2, SUCCESS; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, ...) { return *count = 2, SUCCESS; }
int cuModuleLoad(void **module, const char *path) { return made(module); }
int cuModuleLoadData(void **module, const void *data) { return made(module); }
int cuModuleLoadDataEx(void **module, ...) { return made(module); }
int cuModuleGetFunction(void **kernel, void *module, const char *name) { return made(kernel); }
int cuFuncGetAttribute(int *value, int attribute, void *kernel) {
  enum { MAX_THREADS = 0, REGISTERS = 4 };
  return *value = attribute == MAX_THREADS ? 1024 : attribute == REGISTERS ? 32 : 0, SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return *text = "the null GPU has none", SUCCESS; }

/* PyTorch asks for driver functions by name. */
static int nothing(void) { return SUCCESS; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *found) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (!*function) *function = (void *)nothing;
  if (found) *found = 0;
  return SUCCESS;
}
int cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags, int *found) {
  return cudaGetDriverEntryPointByVersion(name, function, CUDA_VERSION, flags, found);
}

/* --- cuBLAS --- */

struct heuristic {
  unsigned long long algorithm[8];
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
int cublasCreate_v2(void **handle) { return made(handle); }
int cublasGetMathMode(void *handle, int *mode) { return *mode = 0, SUCCESS; }
int cublasGetPointerMode_v2(void *handle, int *mode) { return *mode = 0, SUCCESS; }
int cublasLtMatmulDescCreate(void **handle, ...) { return made(handle); }
int cublasLtMatrixLayoutCreate(void **handle, ...) { return made(handle); }
int cublasLtMatmulPreferenceCreate(void **handle, ...) { return made(handle); }
int cublasLtMatmulAlgoGetHeuristic(void *lt, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, struct heuristic *results, int *num_found) {
  memset(results, 0, sizeof *results * wanted);
  return *num_found = 1, SUCCESS;
}

/* --- NCCL: no rank hears of another; what it sends is what it gets, from each --- */

typedef struct { int count, rank; } communicator;
typedef struct { char bytes[128]; } meeting;
static int joined(communicator **made, int count, int rank) {
  if (!(*made = malloc(sizeof **made))) return OUT_OF_MEMORY;
  **made = (communicator){count, rank};
  return SUCCESS;
}
int ncclCommInitRank(communicator **made, int count, meeting at, int rank) { return joined(made, count, rank); }
int ncclCommInitRankConfig(communicator **made, int count, meeting at, int rank, ...) { return joined(made, count, rank); }
int ncclCommInitRankScalable(communicator **made, int count, int rank, ...) { return joined(made, count, rank); }
int ncclCommCount(communicator *of, int *count) { return *count = of->count, SUCCESS; }
int ncclCommUserRank(communicator *of, int *rank) { return *rank = of->rank, SUCCESS; }
int ncclGetVersion(int *version) { return *version = 22800, SUCCESS; }
int ncclCommGetAsyncError(void *communicator, int *error) { return *error = 0, SUCCESS; }
static size_t bytes_of(size_t count, unsigned type) {
  static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return count * sizes[type];
}
static int sent(void *to, const void *from, size_t size) { return to == from ? SUCCESS : copied(to, from, size); }
int ncclAllGather(const void *from, char *to, size_t count, unsigned type, communicator *of, void *stream) {
  size_t size = bytes_of(count, type);
  for (int rank = 0; rank < of->count; rank++) sent(to + rank * size, from, size);
  return SUCCESS;
}
int ncclAllReduce(const void *from, void *to, size_t count, unsigned type, ...) { return sent(to, from, bytes_of(count, type)); }
int ncclBroadcast(const void *from, void *to, size_t count, unsigned type, ...) { return sent(to, from, bytes_of(count, type)); }

/* --- NVML: PyTorch loads it for segments that grow, Ray asks it how many GPUs there are, vLLM what they can do --- */

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { return *count = installed(), SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { return *handle = (void *)16, SUCCESS; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) { return strncpy(name, NAME, size), SUCCESS; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { return *major = 9, *minor = 0, SUCCESS; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **handle) { return *handle = (void *)16, SUCCESS; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void) { return UNSUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void) { return UNSUPPORTED; }
int nvmlDeviceGetComputeRunningProcesses(void) { return UNSUPPORTED; }
int nvmlDeviceGetGpuFabricInfoV(void) { return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = CUDA_VERSION, SUCCESS; }
