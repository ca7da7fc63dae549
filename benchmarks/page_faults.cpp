// Counts a process's unified-memory page faults and migrations with CUPTI. Built by page_faults.py.
#include <cupti.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

struct Counts {
  std::atomic<std::uint64_t> gpu_fault_groups{0}, bytes_to_device{0}, bytes_to_host{0};
} counts;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *size = std::size_t{8} << 20;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, *size));
  *records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_UNIFIED_MEMORY_COUNTER) continue;
    const auto* counter = reinterpret_cast<CUpti_ActivityUnifiedMemoryCounter3*>(record);
    switch (counter->counterKind) {
      case CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_GPU_PAGE_FAULT:
        ++counts.gpu_fault_groups;
        break;
      case CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_BYTES_TRANSFER_HTOD:
        counts.bytes_to_device += counter->value;
        break;
      case CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_BYTES_TRANSFER_DTOH:
        counts.bytes_to_host += counter->value;
        break;
      default:
        break;
    }
  }
  std::free(buffer);
}

}  // namespace

extern "C" {

/// Starts counting on device 0, before the process makes a CUDA context. Returns a CUPTI result.
int page_faults_start() {
  CUpti_ActivityUnifiedMemoryCounterConfig config[3];
  const CUpti_ActivityUnifiedMemoryCounterKind kinds[3] = {
      CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_GPU_PAGE_FAULT,
      CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_BYTES_TRANSFER_HTOD,
      CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_BYTES_TRANSFER_DTOH};
  for (int i = 0; i < 3; ++i) {
    config[i].scope = CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_SCOPE_PROCESS_SINGLE_DEVICE;
    config[i].kind = kinds[i];
    config[i].deviceId = 0;
    config[i].enable = 1;
  }
  cuInit(0);
  if (auto result = cuptiActivityRegisterCallbacks(give_buffer, take_buffer)) return result;
  if (auto result = cuptiActivityConfigureUnifiedMemoryCounter(config, 3)) return result;
  return cuptiActivityEnable(CUPTI_ACTIVITY_KIND_UNIFIED_MEMORY_COUNTER);
}

/// Writes fault groups, bytes to the device and bytes to the host since the last call.
void page_faults_read(std::uint64_t* out) {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  out[0] = counts.gpu_fault_groups.exchange(0);
  out[1] = counts.bytes_to_device.exchange(0);
  out[2] = counts.bytes_to_host.exchange(0);
}
}
