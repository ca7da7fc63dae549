#include "device/cuda_device.hpp"

#include <utility>

#include "device/managed.hpp"

namespace vramx {

CudaDevice::CudaDevice(std::shared_ptr<CudaCard> card, std::shared_ptr<CudaStore> weights,
                       std::shared_ptr<CudaStore> scratch, std::string kind)
    : card_(std::move(card)),
      weights_(std::move(weights)),
      scratch_(std::move(scratch)),
      facts_(card_->facts()) {
  facts_.kind = std::move(kind);
}

std::shared_ptr<CudaDevice> open_managed(const std::string& driver_path, int ordinal,
                                         bool deny_managed) {
  auto card = std::make_shared<CudaCard>(driver_path, ordinal, deny_managed);
  auto memory = std::make_shared<ManagedStore>(card);
  return std::make_shared<CudaDevice>(card, memory, memory, "managed");
}

std::shared_ptr<CudaDevice> open_mapped(const std::string& driver_path, int ordinal, Bytes unit,
                                        MappedOptions options, bool deny_managed) {
  auto card = std::make_shared<CudaCard>(driver_path, ordinal, deny_managed);
  const bool managed = card->attribute(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS) != 0;
  options.confines_scratch = !managed;
  auto weights = std::make_shared<MappedStore>(card, unit, options);
  std::shared_ptr<CudaStore> scratch = weights;
  if (managed) scratch = std::make_shared<ManagedStore>(card);
  return std::make_shared<CudaDevice>(card, weights, scratch, "mapped");
}

}  // namespace vramx
