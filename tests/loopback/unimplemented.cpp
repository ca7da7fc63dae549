// Entry points that vramx does not use: a call of one is a mistake, and says which.
#include <cstdio>
#include <cstdlib>

#define ABORTS(entry)                                                              \
  extern "C" int entry() {                                                         \
    std::fprintf(stderr, "the loopback driver does not implement %s\n", __func__); \
    std::abort();                                                                  \
  }

ABORTS(cuCtxSetCurrent)
ABORTS(cuCtxSynchronize)
ABORTS(cuDeviceGetUuid_v2)
ABORTS(cuMemAdvise_v2)
ABORTS(cuMemAlloc_v2)
ABORTS(cuMemAllocAsync)
ABORTS(cuMemAllocHost_v2)
ABORTS(cuMemcpyAsync)
ABORTS(cuMemFreeAsync)
ABORTS(cuMemPrefetchAsync_v2)
ABORTS(cuMemPrefetchBatchAsync)
ABORTS(cuMemRangeGetAttribute)
ABORTS(cuMemsetD8Async)
