// Counts a process's unified-memory page faults with CUPTI. Built by page_faults.py.
#include <cupti.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

std::atomic<std::uint64_t> groups{0};

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *size = std::size_t{8} << 20;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, *size));
  *records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_UNIFIED_MEMORY_COUNTER) ++groups;
  }
  std::free(buffer);
}

}  // namespace

/// Starts counting on device 0, before the process makes a CUDA context. Returns a CUPTI result.
extern "C" int page_faults_start() {
  CUpti_ActivityUnifiedMemoryCounterConfig config{
      CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_SCOPE_PROCESS_SINGLE_DEVICE,
      CUPTI_ACTIVITY_UNIFIED_MEMORY_COUNTER_KIND_GPU_PAGE_FAULT, 0, 1};
  cuInit(0);
  if (auto result = cuptiActivityRegisterCallbacks(give_buffer, take_buffer)) return result;
  if (auto result = cuptiActivityConfigureUnifiedMemoryCounter(&config, 1)) return result;
  return cuptiActivityEnable(CUPTI_ACTIVITY_KIND_UNIFIED_MEMORY_COUNTER);
}

/// Returns the fault groups since the last call.
extern "C" std::uint64_t page_faults_taken() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  return groups.exchange(0);
}
