#include "rig.hpp"

#include <cuda.h>

#include <algorithm>

#include "check.hpp"
#include "device/cuda_device.hpp"
#include "device/driver.hpp"
#include "device/managed.hpp"
#include "loopback.h"

namespace rig {

using vramx::Bytes;
using vramx::Operation;
using vramx::Purpose;
using vramx::Stream;

namespace {

class Simulated final : public Rig {
 public:
  explicit Simulated(vramx::SimulatedSpec spec)
      : card_(std::make_shared<vramx::SimulatedDevice>(spec)), device_(card_) {}

  const Flat& device() const override { return device_; }
  Stream stream() override { return next_stream_++; }
  void occupy(Stream stream) override { card_->compute(stream, 1.0); }
  void finish(Stream /*stream*/) override {}
  void launch(Stream stream, vramx::Range range, std::function<void()> work) override {
    card_->launch(stream, range, std::move(work));
  }
  void synchronize(Stream stream) override { card_->synchronize(stream); }
  Bytes on_card() const override { return card_->on_card(); }
  Bytes peak_on_card() const override { return card_->peak_on_card(); }
  Bytes moved_in() const override { return card_->moved_in(); }
  Bytes moved_out() const override { return card_->moved_out(); }
  void use(Stream /*stream*/, vramx::Range /*range*/, bool /*writes*/) override {}
  Bytes faulted() const override { return 0; }
  std::vector<Fault> faults(Operation operation, Purpose /*purpose*/) const override {
    if (operation == Operation::map_host && !reads_over_link()) return {};
    return {{"injected", [this, operation] { card_->fail(operation, 1); },
             [this, operation] { card_->fail(operation, 0); }}};
  }
  void damage(vramx::Range unit, std::uint64_t bit) const override {
    card_->damage(unit.start, bit);
  }
  bool poisons() const override { return true; }
  std::string close() override {
    const Bytes held = card_->on_card();
    device_ = Flat(nullptr);
    card_.reset();
    return held == 0 ? "" : vramx::text(held) + " on the card";
  }

 private:
  std::shared_ptr<vramx::SimulatedDevice> card_;
  Flat device_;
  Stream next_stream_ = 1;
};

LoopbackCounts counts() {
  LoopbackCounts now{};
  loopback_counts(&now);
  return now;
}

enum class Only : std::uint8_t { always, copies };

Fault failing_call(const char* entry, Only only = Only::always, std::uint64_t nth = 1) {
  return {entry + (nth > 1 ? " " + std::to_string(nth) : ""),
          [entry, nth] { loopback_fail(entry, nth, CUDA_ERROR_UNKNOWN); },
          [entry] { loopback_fail(entry, 0, CUDA_SUCCESS); }, only == Only::copies};
}

/// A device over the stand-in driver.
class Loopback : public Rig {
 public:
  ~Loopback() override {
    for (const CUstream stream : streams_) driver_->stream_destroy(stream);
    if (context_ != nullptr) driver_->context_release(0);
  }

  const Flat& device() const override { return device_; }
  Stream stream() override {
    const vramx::Current current(*driver_, context_);
    CUstream stream = nullptr;
    driver_->check(driver_->stream_create(&stream, 0), "cuStreamCreate");
    streams_.push_back(stream);
    loopback_set_programs(reinterpret_cast<Stream>(stream));
    return reinterpret_cast<Stream>(stream);
  }
  void occupy(Stream stream) override { loopback_hold(stream); }
  void finish(Stream stream) override { loopback_let_go(stream); }
  void launch(Stream stream, vramx::Range range, std::function<void()> work) override {
    const auto run_once = [](void* argument) {
      const std::unique_ptr<std::function<void()>> mine(
          static_cast<std::function<void()>*>(argument));
      (*mine)();
    };
    auto mine = std::make_unique<std::function<void()>>(std::move(work));
    loopback_launch(stream, range.start, range.size, run_once, mine.release());
  }
  void synchronize(Stream stream) override { loopback_finish(stream); }
  Bytes on_card() const override { return counts().on_card - start_.on_card; }
  Bytes peak_on_card() const override { return counts().peak_on_card; }
  Bytes moved_in() const override { return counts().to_card - start_.to_card; }
  Bytes moved_out() const override { return counts().to_host - start_.to_host; }
  void use(Stream stream, vramx::Range range, bool writes) override {
    loopback_touch(stream, range.start, range.size, writes ? 1 : 0);
  }
  Bytes faulted() const override { return counts().faulted - start_.faulted; }
  void damage(vramx::Range /*unit*/, std::uint64_t bit) const override { loopback_damage(1, bit); }
  bool poisons() const override { return false; }
  std::string close() override {
    device_ = Flat(nullptr);
    for (const CUstream stream : streams_) driver_->stream_destroy(stream);
    streams_.clear();
    driver_->context_release(0);
    context_ = nullptr;
    const LoopbackCounts now = counts();
    std::string held;
    const auto more = [&](const char* what, std::uint64_t before, std::uint64_t after) {
      if (after != before) held += std::to_string(after - before) + " more " + what + " ";
    };
    more("bytes on the card", start_.on_card, now.on_card);
    more("managed bytes", start_.managed, now.managed);
    more("bytes of the card's memory", start_.card_memory, now.card_memory);
    more("registered bytes", start_.registered, now.registered);
    more("bytes of addresses", start_.reserved, now.reserved);
    more("events", start_.live_events, now.live_events);
    more("streams", start_.live_streams, now.live_streams);
    more("contexts", start_.live_contexts, now.live_contexts);
    more("modules", start_.live_modules, now.live_modules);
    more("bytes counted as managed", start_.managed, vramx::managed_bytes());
    more("bytes counted as pinned", start_.registered, vramx::pinned_bytes());
    return held;
  }

 protected:
  explicit Loopback(const std::function<std::shared_ptr<vramx::Device>()>& open)
      : start_(counts()), device_(open()), driver_(vramx::Driver::open(LOOPBACK_PATH)) {
    driver_->check(driver_->context_retain(&context_, 0), "cuDevicePrimaryCtxRetain");
    loopback_reset_peak();
  }

 private:
  LoopbackCounts start_;
  Flat device_;
  std::shared_ptr<const vramx::Driver> driver_;
  CUcontext context_ = nullptr;
  std::vector<CUstream> streams_;
};

std::shared_ptr<vramx::Device> open_managed() { return vramx::open_managed(LOOPBACK_PATH, 0); }

std::vector<Fault> managed_faults(Operation operation) {
  switch (operation) {
    case Operation::reserve:
      return {failing_call("cuMemAllocManaged"), failing_call("cuMemAdvise")};
    case Operation::fetch:
      return {failing_call("cuMemPrefetchAsync"), failing_call("cuEventRecord")};
    case Operation::evict:
      return {failing_call("cuMemAdvise"), failing_call("cuMemPrefetchAsync", Only::copies),
              failing_call("cuEventRecord", Only::copies)};
    case Operation::map_host:
      return {failing_call("cuMemPrefetchAsync"), failing_call("cuMemAdvise")};
    case Operation::pack:
      return {};
  }
  return {};
}

class Managed final : public Loopback {
 public:
  Managed() : Loopback(open_managed) {}

  std::vector<Fault> faults(Operation operation, Purpose /*purpose*/) const override {
    return managed_faults(operation);
  }
};

/// All in mapped memory, or weights alone.
enum class Scratch : std::uint8_t { mapped, managed };

std::shared_ptr<vramx::Device> open_mapped(Bytes unit, HostMemory host, Scratch scratch) {
  vramx::MappedOptions options{.keeps_raw = host != HostMemory::packed_alone};
  if (host == HostMemory::pageable) {
    loopback_set_pinnable(0);
    options.unpinned = vramx::Unpinned::accept;
  }
  if (host == HostMemory::pageable || host == HostMemory::packed_alone) {
    loopback_set_copies_pageable(1);
  }
  // What the driver says is asked once, when the device is made.
  loopback_set_uses_registered(host == HostMemory::only_copied ? 0 : 1);
  const auto card = std::make_shared<vramx::CudaCard>(LOOPBACK_PATH, 0);
  const auto memory = std::make_shared<vramx::MappedStore>(card, unit, options);
  loopback_set_uses_registered(1);
  if (scratch == Scratch::mapped) {
    return std::make_shared<vramx::CudaDevice>(card, memory, memory, "mapped");
  }
  const auto managed = std::make_shared<vramx::ManagedStore>(card);
  return std::make_shared<vramx::CudaDevice>(card, memory, managed, "mapped");
}

class Mapped : public Loopback {
 public:
  Mapped(Bytes unit, HostMemory host)
      : Mapped(host, [unit, host] { return open_mapped(unit, host, Scratch::mapped); }) {}
  ~Mapped() override {
    loopback_set_pinnable(~Bytes{0});
    loopback_set_copies_pageable(0);
  }

  bool reads_over_link() const override { return host_ == HostMemory::read_in_place; }
  bool keeps_frames() const override { return true; }
  bool packs() const override { return host_ != HostMemory::pageable && Loopback::packs(); }
  std::vector<Fault> faults(Operation operation, Purpose /*purpose*/) const override {
    switch (operation) {
      case Operation::reserve:
        if (host_ == HostMemory::pageable) return {failing_call("cuMemAddressReserve")};
        if (host_ == HostMemory::packed_alone) return {failing_call("cuMemAddressReserve")};
        return {failing_call("cuMemAddressReserve"), failing_call("cuMemHostRegister_v2")};
      case Operation::fetch:
        return {failing_call("cuMemMap"), failing_call("cuMemSetAccess"),
                failing_call("cuMemcpyHtoDAsync_v2"), failing_call("cuEventRecord")};
      case Operation::evict:
        return {failing_call("cuMemUnmap"), failing_call("cuMemcpyDtoHAsync_v2", Only::copies),
                failing_call("cuStreamSynchronize", Only::copies)};
      case Operation::map_host:
        return {};
      case Operation::pack:
        return {failing_call("cuMemMap"),
                failing_call("cuMemSetAccess", Only::always, 3),
                failing_call("cuMemcpyHtoDAsync_v2"),
                failing_call("cuLaunchKernel"),
                failing_call("cuLaunchKernel", Only::always, 3),
                failing_call("cuMemHostRegister_v2"),
                failing_call("cuMemcpyDtoHAsync_v2"),
                failing_call("cuMemcpyDtoHAsync_v2", Only::always, 2)};
    }
    return {};
  }

 protected:
  Mapped(HostMemory host, const std::function<std::shared_ptr<vramx::Device>()>& open)
      : Loopback(open), host_(host) {}

 private:
  HostMemory host_;
};

class Confined final : public Mapped {
 public:
  Confined()
      : Mapped(HostMemory::read_in_place,
               [] { return vramx::open_mapped(LOOPBACK_PATH, 0, 2 * vramx::MiB, {}, true); }) {}
};

class Divided final : public Mapped {
 public:
  Divided()
      : Mapped(HostMemory::read_in_place, [] {
          return open_mapped(2 * vramx::MiB, HostMemory::read_in_place, Scratch::managed);
        }) {}

  std::vector<Fault> faults(Operation operation, Purpose purpose) const override {
    return purpose == Purpose::weights ? Mapped::faults(operation, purpose)
                                       : managed_faults(operation);
  }
};

}  // namespace

vramx::Range seen(const Flat& device, vramx::Range range) {
  const vramx::Address host = device.host_address(range.start);
  if (host == 0) return range;
  const auto* card = dynamic_cast<const vramx::SimulatedDevice*>(&*device);
  const bool there = card != nullptr ? card->holds(range) : loopback_maps(range.start) != 0;
  return there ? range : vramx::Range{host, range.size};
}

std::unique_ptr<Rig> simulated(vramx::SimulatedSpec spec) {
  return std::make_unique<Simulated>(spec);
}

std::unique_ptr<Rig> managed() { return std::make_unique<Managed>(); }

std::unique_ptr<Rig> mapped(Bytes unit, HostMemory host) {
  return std::make_unique<Mapped>(unit, host);
}

std::unique_ptr<Rig> divided() { return std::make_unique<Divided>(); }

std::unique_ptr<Rig> confined() { return std::make_unique<Confined>(); }

void on_each(void (*test)(Rig&)) {
  std::string failed;
  const auto run = [&](const char* name, std::unique_ptr<Rig> rig) {
    try {
      test(*rig);
      const std::string held = rig->close();
      if (!held.empty()) throw check::Failed("still held afterwards: " + held);
    } catch (const std::exception& error) {
      failed += (failed.empty() ? "" : "\n         ") + std::string(name) + ": " + error.what();
    }
  };
  run("simulated", simulated({.unpack_rate = 1e12}));
  run("simulated with one address, at the latest moments",
      simulated({.host_addresses = false,
                 .unpack_rate = 1e12,
                 .moments = {.when = vramx::Moment::latest}}));
  run("simulated that keeps packed bytes alone, at the latest moments",
      simulated(
          {.unpack_rate = 1e12, .keeps_raw = false, .moments = {.when = vramx::Moment::latest}}));
  run("managed", managed());
  run("mapped", mapped());
  run("divided", divided());
  run("mapped and only copied", mapped(2 * vramx::MiB, HostMemory::only_copied));
  run("mapped that keeps packed bytes alone", mapped(2 * vramx::MiB, HostMemory::packed_alone));
  run("mapped without pinned memory", mapped(2 * vramx::MiB, HostMemory::pageable));
  if (!failed.empty()) throw check::Failed(failed);
}

}  // namespace rig
