// A stand-in profiler: writes the ranges that it is told of to the file VRAMX_TEST_RANGES, a line
// each: the thread, "push" and the name, or "pop".
#include <nvtx3/nvToolsExt.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace {

std::mutex mutex;

void write(const char* what, const char* name) {
  const std::lock_guard lock(mutex);
  std::FILE* file = std::fopen(std::getenv("VRAMX_TEST_RANGES"), "a");
  if (file == nullptr) std::abort();
  std::fprintf(file, "%ld %s %s\n", syscall(SYS_gettid), what, name);
  std::fclose(file);
}

int push(nvtxDomainHandle_t /*domain*/, const nvtxEventAttributes_t* attributes) {
  write("push", attributes->message.ascii);
  return 0;
}

int pop(nvtxDomainHandle_t /*domain*/) {
  write("pop", "");
  return 0;
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks =
      static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
  *table[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push);
  *table[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}
