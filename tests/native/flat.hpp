// A device's memory, its links and its queues as one thing, each call going to the memory that the
// range is of.
#pragma once

#include <memory>

#include "base/error.hpp"
#include "device/device.hpp"

namespace rig {

/// The memory that a reserved range of a device is of.
inline vramx::Store& memory_at(vramx::Device& device, vramx::Address address) {
  vramx::Store& weights = device.memory(vramx::Purpose::weights);
  try {
    weights.host_address(address);
    return weights;
  } catch (const vramx::BadConfig&) {
    return device.memory(vramx::Purpose::scratch);
  }
}

class Flat {
 public:
  using Range = vramx::Range;
  using Fence = vramx::Fence;
  using Stream = vramx::Stream;

  Flat(std::shared_ptr<vramx::Device> device) : device_(std::move(device)) {}  // NOLINT
  const Flat* operator->() const { return this; }
  vramx::Device& operator*() const { return *device_; }
  operator const std::shared_ptr<vramx::Device>&() const { return device_; }  // NOLINT

  const vramx::Facts& facts() const { return device_->facts(); }
  const vramx::Traits& traits() const { return device_->memory(vramx::Purpose::weights).traits(); }
  vramx::Bytes free_bytes() const { return device_->free_bytes(); }
  vramx::Packing* packing() const { return device_->memory(vramx::Purpose::weights).packing(); }
  void check_budget(vramx::Bytes budget) const {
    device_->memory(vramx::Purpose::weights).check_budget(budget);
  }

  Range reserve(vramx::Bytes size, vramx::Purpose purpose) const {
    return device_->memory(purpose).reserve(size, purpose);
  }
  void release(Range range) const { at(range).release(range); }
  void store(vramx::Address to, const void* from, vramx::Bytes size) const {
    at({to, size}).store(to, from, size);
  }
  void load(void* to, vramx::Address from, vramx::Bytes size) const {
    at({from, size}).load(to, from, size);
  }
  void settle(Range range) const { at(range).settle(range); }
  Fence fetch(Range range, vramx::FetchMode how, vramx::Lane lane, vramx::Fences after) const {
    return at(range).link().fetch(range, how, lane, after);
  }
  Fence evict(Range range, vramx::EvictMode how, vramx::Lane lane, vramx::Fences after) const {
    return at(range).link().evict(range, how, lane, after);
  }
  Fence lane_clock(vramx::Lane lane) const {
    return device_->memory(vramx::Purpose::weights).link().lane_clock(lane);
  }
  bool reads_in_place(Range range) const { return at(range).reads_in_place(range); }
  void map_host(Range range) const { at(range).map_host(range); }
  void unmap_host(Range range) const { at(range).unmap_host(range); }
  void use_over_link(Stream stream, Range range) const { at(range).use_over_link(stream, range); }
  vramx::Address host_address(vramx::Address address) const {
    return at({address, 1}).host_address(address);
  }
  void refresh(Stream stream, Range range) const { at(range).refresh(stream, range); }
  void save(Stream stream, Range range) const { at(range).save(stream, range); }

  void order(Stream stream, const Fence& fence) const { device_->streams().order(stream, fence); }
  Fence mark(Stream stream) const { return device_->streams().mark(stream); }
  Fence clock(Stream stream) const { return device_->streams().clock(stream); }
  double seconds(const Fence& from, const Fence& to) const {
    return device_->streams().seconds(from, to);
  }
  bool reached(const Fence& fence) const { return device_->streams().reached(fence); }
  void wait(const Fence& fence) const { device_->streams().wait(fence); }

 private:
  vramx::Store& at(Range range) const { return memory_at(*device_, range.start); }

  std::shared_ptr<vramx::Device> device_;
};

}  // namespace rig
