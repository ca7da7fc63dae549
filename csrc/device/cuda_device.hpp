// A CUDA card with mapped or managed memory for weights, and managed for what the program
// allocates.
//
// Mapped memory moves weights best, but remapping has no stream: work that nobody announced and
// that runs meanwhile fails. Weights are used under leases. Activations are used by any operation,
// so they lie in unified memory, which stays right whatever is done; where a card has no concurrent
// access to that, they stay on the card, in mapped memory.
#pragma once

#include <memory>
#include <string>

#include "device/cuda.hpp"
#include "device/mapped.hpp"

namespace vramx {

class CudaDevice final : public Device {
 public:
  /// `weights` and `scratch` are memory of `card`.
  CudaDevice(std::shared_ptr<CudaCard> card, std::shared_ptr<CudaStore> weights,
             std::shared_ptr<CudaStore> scratch, std::string kind);

  const Facts& facts() const override { return facts_; }
  Bytes free_bytes() const override { return card_->free_bytes(); }
  Streams& streams() override { return *card_; }
  CudaStore& memory(Purpose purpose) override {
    return purpose == Purpose::weights ? *weights_ : *scratch_;
  }

 private:
  std::shared_ptr<CudaCard> card_;
  std::shared_ptr<CudaStore> weights_;
  std::shared_ptr<CudaStore> scratch_;
  Facts facts_;
};

/// All in managed memory. Throws NoDevice where there is no such card, or it has no such memory.
std::shared_ptr<CudaDevice> open_managed(const std::string& driver_path, int ordinal,
                                         bool deny_managed = false);
/// Weights in mapped memory, moved `unit` bytes at once, and scratch in managed memory where the
/// card has that. Throws NoDevice where there is no such card, and as MappedStore.
std::shared_ptr<CudaDevice> open_mapped(const std::string& driver_path, int ordinal, Bytes unit,
                                        MappedOptions options = {}, bool deny_managed = false);

}  // namespace vramx
