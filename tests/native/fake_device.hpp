// A device that writes down what it is asked, and fails or waits where a test says so.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "device/device.hpp"

class FakeDevice final : public vramx::Device,
                         public vramx::Streams,
                         public vramx::Store,
                         public vramx::Route {
 public:
  using Range = vramx::Range;
  using Fence = vramx::Fence;

  /// "evict 100+1 lane 0 after nothing", ... in the order asked; failed calls too.
  std::vector<std::string> log() const {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  std::thread::id last_thread() const {
    const std::lock_guard lock(mutex_);
    return last_thread_;
  }
  /// Every fetch, evict or unmap_host of the range that starts here fails.
  void fail_at(vramx::Address start) {
    const std::lock_guard lock(mutex_);
    failing_ = start;
  }
  /// Calls that begin so, by default all, wait and hold their thread, until others are chosen.
  void shut(const std::string& call = "") { choose(call); }
  void open() { choose(std::nullopt); }
  /// What is fetched over the link arrives only once it is to.
  void hold_arrivals() { arrive(false); }
  void let_arrive() { arrive(true); }
  /// Returns once a call of this name has been made.
  void await(const std::string& call) {
    std::unique_lock lock(mutex_);
    gate_.wait(lock, [&] {
      return std::ranges::any_of(log_, [&](const auto& each) { return each.starts_with(call); });
    });
  }
  /// A way that does not take the link; fetches by it are written down as unpacked.
  vramx::Route& unpack() { return unpack_; }
  /// Returns once a call waits at the gate.
  void await_arrival() {
    std::unique_lock lock(mutex_);
    gate_.wait(lock, [&] { return waiting_ > 0; });
  }

  const vramx::Facts& facts() const override { return facts_; }
  vramx::Bytes free_bytes() const override { return facts_.capacity; }
  vramx::Streams& streams() override { return *this; }
  vramx::Store& memory(vramx::Purpose /*purpose*/) override { return *this; }
  const vramx::Traits& traits() const override { return traits_; }
  vramx::Route& route(vramx::Place /*from*/) override { return *this; }
  vramx::Rates rates() const override { return {}; }
  Range reserve(vramx::Bytes size, vramx::Purpose /*purpose*/) override { return {0x1000, size}; }
  void release(Range /*range*/) noexcept override {}
  void store(vramx::Address, const void*, vramx::Bytes) override {}
  void load(void*, vramx::Address, vramx::Bytes) override {}
  Fence fetch(Range range, vramx::FetchMode, vramx::Lane lane, vramx::Fences after) override {
    return asked("fetch", range, " lane " + std::to_string(lane) + " after " + names(after));
  }
  Fence evict(Range range, vramx::EvictMode, vramx::Lane lane, vramx::Fences after) override {
    return asked("evict", range, " lane " + std::to_string(lane) + " after " + names(after));
  }
  void map_host(Range range) override { asked("map_host", range, ""); }
  void unmap_host(Range range) override { asked("unmap_host", range, ""); }
  void use_over_link(vramx::Stream, Range) override {}
  void order(vramx::Stream, const Fence&) override {}
  Fence mark(vramx::Stream) override { return nullptr; }
  Fence clock(vramx::Stream) override { return std::make_shared<Named>("now"); }
  double seconds(const Fence&, const Fence&) const override { return 1e-3; }
  bool reached(const Fence& fence) const noexcept override {
    const std::lock_guard lock(mutex_);
    return arrives_ || !is_arrival(fence);
  }
  void wait(const Fence& fence) override {
    std::unique_lock lock(mutex_);
    gate_.wait(lock, [&] { return arrives_ || !is_arrival(fence); });
  }
  void settle(Range) noexcept override {}

 private:
  struct Named final : vramx::Mark {
    explicit Named(std::string of) : name(std::move(of)) {}
    std::string name;
  };

  struct Unpack final : vramx::Route {
    explicit Unpack(FakeDevice& device) : of(device) {}
    vramx::Rates rates() const override { return {}; }
    bool crosses_link() const override { return false; }
    Fence fetch(Range range, vramx::FetchMode, vramx::Lane, vramx::Fences after) override {
      return of.asked("unpack", range, " after " + names(after));
    }
    Fence evict(Range range, vramx::EvictMode, vramx::Lane, vramx::Fences after) override {
      return of.asked("evict", range, " after " + names(after));
    }
    FakeDevice& of;
  };

  static bool is_arrival(const Fence& fence) {
    return fence && static_cast<const Named&>(*fence).name.starts_with("fetch");
  }

  void arrive(bool arrives) {
    {
      const std::lock_guard lock(mutex_);
      arrives_ = arrives;
    }
    gate_.notify_all();
  }

  void choose(const std::optional<std::string>& shut) {
    {
      const std::lock_guard lock(mutex_);
      shut_ = shut;
    }
    gate_.notify_all();
  }

  static std::string names(vramx::Fences fences) {
    std::string all;
    for (const Fence& fence : fences) {
      all += (all.empty() ? "" : ",") + (fence ? static_cast<const Named&>(*fence).name : "-");
    }
    return all.empty() ? "nothing" : all;
  }

  Fence asked(const std::string& what, Range range, const std::string& how) {
    const std::string name = what + " " + std::to_string(range.start);
    std::unique_lock lock(mutex_);
    ++waiting_;
    gate_.notify_all();
    gate_.wait(lock, [&] { return !shut_ || !name.starts_with(*shut_); });
    --waiting_;
    log_.push_back(name + "+" + std::to_string(range.size) + how);
    gate_.notify_all();
    last_thread_ = std::this_thread::get_id();
    if (range.start == failing_) throw vramx::DeviceFailure(name + " fails");
    return std::make_shared<Named>(name);
  }

  vramx::Facts facts_ = {.name = "fake", .kind = "fake", .uuid = "", .capacity = vramx::GiB};
  vramx::Traits traits_ = {.granule = 1, .unit = 1, .reads_over_link = true};
  mutable std::mutex mutex_;
  std::condition_variable gate_;
  std::vector<std::string> log_;
  std::thread::id last_thread_;
  vramx::Address failing_ = 0;
  std::optional<std::string> shut_;
  int waiting_ = 0;
  bool arrives_ = true;
  Unpack unpack_{*this};
};
