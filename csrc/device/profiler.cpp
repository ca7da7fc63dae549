#include "device/profiler.hpp"

#include <nvtx3/nvToolsExt.h>

namespace vramx {

namespace {

nvtxDomainHandle_t domain() noexcept {
  static const nvtxDomainHandle_t ours = nvtxDomainCreateA("vramx");
  return ours;
}

}  // namespace

void begin_profiler_range(const std::string& name) noexcept {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name.c_str();
  nvtxDomainRangePushEx(domain(), &attributes);
}

void end_profiler_range() noexcept { nvtxDomainRangePop(domain()); }

}  // namespace vramx
