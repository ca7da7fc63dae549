// One card with a backend for weights and another for what the program allocates.
//
// Mapped memory moves weights best, but remapping has no stream: work that nobody announced and
// that runs meanwhile fails. Weights are used under leases. Activations are used by any operation,
// so they lie in unified memory, which stays right whatever is done.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device/cuda.hpp"

namespace vramx {

class DividedDevice final : public Device {
 public:
  /// Throws BadConfig where the two are not of one card. Facts are those of `weights`.
  DividedDevice(std::shared_ptr<CudaDevice> weights, std::shared_ptr<CudaDevice> scratch);

  const std::shared_ptr<CudaDevice>& weights() const { return weights_; }
  const std::shared_ptr<CudaDevice>& scratch() const { return scratch_; }

  const Facts& facts() const override { return facts_; }
  Bytes free_bytes() const override { return weights_->free_bytes(); }
  Range reserve(Bytes size, Use use) override;
  void release(Range range) noexcept override;
  void store(Address to, const void* from, Bytes size) override;
  void load(void* to, Address from, Bytes size) override;
  Fence bring(Range range, Arrive how, Lane lane, Fences after) override;
  Fence leave(Range range, Leave how, Lane lane, Fences after) override;
  bool reads_in_place(Range range) const override { return of(range.start).reads_in_place(range); }
  void expose(Range range) override { of(range.start).expose(range); }
  void conceal(Range range) override { of(range.start).conceal(range); }
  void use_over_link(Stream stream, Range range) override;
  Address host_address(Address address) const override { return of(address).host_address(address); }
  void refresh(Stream stream, Range range) override { of(range.start).refresh(stream, range); }
  void save(Stream stream, Range range) override { of(range.start).save(stream, range); }
  void settle(Range range) noexcept override { of(range.start).settle(range); }
  void check_budget(Bytes budget) const override { weights_->check_budget(budget); }
  Bytes card_bytes() const override { return weights_->card_bytes() + scratch_->card_bytes(); }
  void trim(Bytes most) noexcept override { weights_->trim(most); }

  // Fences of all CUDA backends are alike.
  void order(Stream stream, const Fence& fence) override { weights_->order(stream, fence); }
  Fence mark(Stream stream) override { return weights_->mark(stream); }
  Fence lane_clock(Lane lane) override { return weights_->lane_clock(lane); }
  Fence clock(Stream stream) override { return weights_->clock(stream); }
  double seconds(const Fence& from, const Fence& to) const override {
    return weights_->seconds(from, to);
  }
  bool reached(const Fence& fence) const noexcept override { return weights_->reached(fence); }
  void wait(const Fence& fence) override { weights_->wait(fence); }

 private:
  CudaDevice& of(Address address) const;

  std::shared_ptr<CudaDevice> weights_;
  std::shared_ptr<CudaDevice> scratch_;
  Facts facts_;
  mutable std::mutex mutex_;
  std::map<Address, Range> scratch_ranges_;
  std::vector<Fence> latest_;  ///< by lane: its last arrival, by whichever backend
};

}  // namespace vramx
