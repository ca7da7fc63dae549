// A device that hands everything on to a simulated card; tests derive from it what does otherwise.
#pragma once

#include "device/simulated.hpp"

class OverSimulated : public vramx::Device,
                      public vramx::Streams,
                      public vramx::Store,
                      public vramx::Route {
 public:
  using Range = vramx::Range;
  using Fence = vramx::Fence;
  using Stream = vramx::Stream;

  explicit OverSimulated(const vramx::SimulatedSpec& spec) : card_(spec) {}

  vramx::SimulatedDevice& card() const { return card_; }

  const vramx::Facts& facts() const override { return card_.facts(); }
  vramx::Bytes free_bytes() const override { return card_.free_bytes(); }
  vramx::Streams& streams() override { return *this; }
  vramx::Store& memory(vramx::Purpose /*purpose*/) override { return *this; }
  const vramx::Traits& traits() const override { return card_.traits(); }
  vramx::Route& route(vramx::Place /*from*/) override { return *this; }
  vramx::Packing* packing() override { return card_.packing(); }
  vramx::Rates rates() const override { return card_.rates(); }
  Range reserve(vramx::Bytes size, vramx::Purpose purpose) override {
    return card_.reserve(size, purpose);
  }
  void release(Range range) noexcept override { card_.release(range); }
  void store(vramx::Address to, const void* from, vramx::Bytes size) override {
    card_.store(to, from, size);
  }
  void load(void* to, vramx::Address from, vramx::Bytes size) override {
    card_.load(to, from, size);
  }
  Fence fetch(Range range, vramx::FetchMode how, vramx::Lane lane, vramx::Fences after) override {
    return card_.fetch(range, how, lane, after);
  }
  Fence evict(Range range, vramx::EvictMode how, vramx::Lane lane, vramx::Fences after) override {
    return card_.evict(range, how, lane, after);
  }
  void map_host(Range range) override { card_.map_host(range); }
  void unmap_host(Range range) override { card_.unmap_host(range); }
  void use_over_link(Stream stream, Range range) override { card_.use_over_link(stream, range); }
  vramx::Address host_address(vramx::Address address) const override {
    return card_.host_address(address);
  }
  void refresh(Stream stream, Range range) override { card_.refresh(stream, range); }
  void save(Stream stream, Range range) override { card_.save(stream, range); }
  void order(Stream stream, const Fence& fence) override { card_.order(stream, fence); }
  Fence mark(Stream stream) override { return card_.mark(stream); }
  Fence clock(Stream stream) override { return card_.clock(stream); }
  double seconds(const Fence& from, const Fence& to) const override {
    return card_.seconds(from, to);
  }
  bool reached(const Fence& fence) const noexcept override { return card_.reached(fence); }
  void wait(const Fence& fence) override { card_.wait(fence); }
  double stalled() const override { return card_.stalled(); }
  void settle(Range range) noexcept override { card_.settle(range); }

 private:
  mutable vramx::SimulatedDevice card_;
};
