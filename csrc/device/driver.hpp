// NVIDIA's driver, opened at run time: one table of entry points and one translator of its errors.
// Nothing here links to CUDA, so one build imports anywhere.
#pragma once

#include <cuda.h>

#include <memory>
#include <string>

namespace vramx {

// The version of each entry point is fixed here, so that what is called does not depend on the
// headers of the day. The unversioned advice and prefetch calls exist in every driver since CUDA 8.
#define VRAMX_ENTRY_POINTS(X)                                                               \
  X(init, "cuInit", unsigned)                                                               \
  X(version, "cuDriverGetVersion", int*)                                                    \
  X(error_name, "cuGetErrorName", CUresult, const char**)                                   \
  X(error_text, "cuGetErrorString", CUresult, const char**)                                 \
  X(device_count, "cuDeviceGetCount", int*)                                                 \
  X(device_get, "cuDeviceGet", CUdevice*, int)                                              \
  X(device_name, "cuDeviceGetName", char*, int, CUdevice)                                   \
  X(device_attribute, "cuDeviceGetAttribute", int*, CUdevice_attribute, CUdevice)           \
  X(device_uuid, "cuDeviceGetUuid", CUuuid*, CUdevice)                                      \
  X(device_memory, "cuDeviceTotalMem_v2", size_t*, CUdevice)                                \
  X(context_retain, "cuDevicePrimaryCtxRetain", CUcontext*, CUdevice)                       \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", CUdevice)                              \
  X(context_create, "cuCtxCreate_v2", CUcontext*, unsigned, CUdevice)                       \
  X(context_destroy, "cuCtxDestroy_v2", CUcontext)                                          \
  X(context_limit, "cuCtxSetLimit", CUlimit, size_t)                                        \
  X(context_get, "cuCtxGetCurrent", CUcontext*)                                             \
  X(context_push, "cuCtxPushCurrent_v2", CUcontext)                                         \
  X(context_pop, "cuCtxPopCurrent_v2", CUcontext*)                                          \
  X(memory_info, "cuMemGetInfo_v2", size_t*, size_t*)                                       \
  X(allocate_managed, "cuMemAllocManaged", CUdeviceptr*, size_t, unsigned)                  \
  X(free, "cuMemFree_v2", CUdeviceptr)                                                      \
  X(advise, "cuMemAdvise", CUdeviceptr, size_t, CUmem_advise, CUdevice)                     \
  X(prefetch, "cuMemPrefetchAsync", CUdeviceptr, size_t, CUdevice, CUstream)                \
  X(granularity, "cuMemGetAllocationGranularity", size_t*, const CUmemAllocationProp*,      \
    CUmemAllocationGranularity_flags)                                                       \
  X(reserve_addresses, "cuMemAddressReserve", CUdeviceptr*, size_t, size_t, CUdeviceptr,    \
    unsigned long long)                                                                     \
  X(free_addresses, "cuMemAddressFree", CUdeviceptr, size_t)                                \
  X(create_memory, "cuMemCreate", CUmemGenericAllocationHandle*, size_t,                    \
    const CUmemAllocationProp*, unsigned long long)                                         \
  X(release_memory, "cuMemRelease", CUmemGenericAllocationHandle)                           \
  X(map, "cuMemMap", CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle,             \
    unsigned long long)                                                                     \
  X(unmap, "cuMemUnmap", CUdeviceptr, size_t)                                               \
  X(set_access, "cuMemSetAccess", CUdeviceptr, size_t, const CUmemAccessDesc*, size_t)      \
  X(pin, "cuMemHostRegister_v2", void*, size_t, unsigned)                                   \
  X(unpin, "cuMemHostUnregister", void*)                                                    \
  X(copy_to_card, "cuMemcpyHtoDAsync_v2", CUdeviceptr, const void*, size_t, CUstream)       \
  X(copy_to_host, "cuMemcpyDtoHAsync_v2", void*, CUdeviceptr, size_t, CUstream)             \
  X(copy_on_card, "cuMemcpyDtoDAsync_v2", CUdeviceptr, CUdeviceptr, size_t, CUstream)       \
  X(fill, "cuMemsetD32Async", CUdeviceptr, unsigned, size_t, CUstream)                      \
  X(module_load, "cuModuleLoadData", CUmodule*, const void*)                                \
  X(module_unload, "cuModuleUnload", CUmodule)                                              \
  X(module_function, "cuModuleGetFunction", CUfunction*, CUmodule, const char*)             \
  X(launch, "cuLaunchKernel", CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, \
    unsigned, unsigned, CUstream, void**, void**)                                           \
  X(stream_priorities, "cuCtxGetStreamPriorityRange", int*, int*)                           \
  X(stream_create_prior, "cuStreamCreateWithPriority", CUstream*, unsigned, int)            \
  X(stream_wait, "cuStreamSynchronize", CUstream)                                           \
  X(stream_create, "cuStreamCreate", CUstream*, unsigned)                                   \
  X(stream_destroy, "cuStreamDestroy_v2", CUstream)                                         \
  X(stream_wait_event, "cuStreamWaitEvent", CUstream, CUevent, unsigned)                    \
  X(event_create, "cuEventCreate", CUevent*, unsigned)                                      \
  X(event_destroy, "cuEventDestroy_v2", CUevent)                                            \
  X(event_record, "cuEventRecord", CUevent, CUstream)                                       \
  X(event_query, "cuEventQuery", CUevent)                                                   \
  X(event_elapsed, "cuEventElapsedTime", float*, CUevent, CUevent)                          \
  X(event_wait, "cuEventSynchronize", CUevent)

// Newer than the oldest driver; null where it lacks them.
#define VRAMX_OPTIONAL_ENTRY_POINTS(X) \
  X(discard, "cuMemDiscardBatchAsync", CUdeviceptr*, size_t*, size_t, unsigned long long, CUstream)

template <class... Arguments>
using EntryPoint = CUresult(CUDAAPI*)(Arguments...);

class Driver {
 public:
  /// Opens the driver, once a path and process. Throws NoDevice where there is none, or it lacks an
  /// entry point, or it is older than `oldest_version`.
  static std::shared_ptr<const Driver> open(const std::string& path);

  /// CUDA 12.0, the oldest that the supported torch releases run on.
  static constexpr int oldest_version = 12000;

#define VRAMX_DECLARE(member, symbol, ...) EntryPoint<__VA_ARGS__> member = nullptr;
  VRAMX_ENTRY_POINTS(VRAMX_DECLARE)
  VRAMX_OPTIONAL_ENTRY_POINTS(VRAMX_DECLARE)
#undef VRAMX_DECLARE

  /// Throws OutOfMemory, NoDevice or DeviceFailure, naming the call and the driver's words.
  void check(CUresult result, const char* call) const;

 private:
  explicit Driver(const std::string& path);
};

/// Makes a context current for a scope, at no cost where it is already.
class Current {
 public:
  Current(const Driver& driver, CUcontext context);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

}  // namespace vramx
