// What every CUDA backend has: a card and its context, copy lanes, and fences that are events.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "device/driver.hpp"

namespace vramx {

class CudaDevice : public Device {
 public:
  ~CudaDevice() override;

  const Facts& facts() const override { return facts_; }
  /// Tells what moves reach over this card's link, bytes a second.
  void set_link(double to_card, double to_host) {
    facts_.to_card = to_card;
    facts_.to_host = to_host;
  }
  Bytes free_bytes() const override;
  void order(Stream stream, const Fence& fence) override;
  Fence mark(Stream stream) override;
  Fence clock(Stream stream) override;
  Fence lane_clock(Lane lane) override;
  double seconds(const Fence& from, const Fence& to) const override;
  bool reached(const Fence& fence) const noexcept override;
  void wait(const Fence& fence) override;

 protected:
  /// What outlives the device object while a fence does: a context and its spare events.
  struct Card {
    std::shared_ptr<const Driver> driver;
    CUdevice device = 0;
    CUcontext context = nullptr;
    bool apart = false;  ///< made here, and not the one that the program works in
    std::mutex mutex;
    std::vector<CUevent> spare[2];  ///< without and with times

    ~Card();
    /// One more context on the same card.
    std::shared_ptr<Card> another() const;
  };

  /// Copy queues. They and the fences on them belong to one context.
  struct Lanes {
    Lanes(std::shared_ptr<Card> of, unsigned count);
    ~Lanes();
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;
    CUstream at(Lane lane) const { return streams.at(lane); }

    std::shared_ptr<Card> card;
    std::vector<CUstream> streams;
  };

  /// A fence, which holds its card.
  struct Event final : Mark {
    explicit Event(std::shared_ptr<Card> of, bool with_time = false);
    ~Event() override;
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    std::shared_ptr<Card> card;
    bool timed;
    CUevent event = nullptr;
    /// Once reached it stays so; the driver takes microseconds to say it again.
    mutable std::atomic<bool> over = false;
  };

  /// A card's attribute that a backend cannot do without, and what to say where it is 0.
  struct Needs {
    CUdevice_attribute attribute;
    const char* lacking;
  };

  /// Throws NoDevice where the card does not exist or lacks what the backend needs.
  CudaDevice(const std::string& driver_path, int ordinal, Needs needs);

  static CUstream stream_of(Stream stream) { return reinterpret_cast<CUstream>(stream); }  // NOLINT
  const Driver& cuda() const { return *card_->driver; }
  static const Event& event_of(const Fence& fence);
  /// Whether it is known to be reached, without asking the driver.
  static bool is_over(const Fence& fence);
  Current current() const { return Current(cuda(), card_->context); }
  /// The lane's stream waits for the fences; the host does not.
  void order_lane(CUstream lane, Fences after) const;
  /// Records the event on the lane.
  void record(const Event& event, CUstream lane) const;

  std::shared_ptr<Card> card_;
  Facts facts_;                   ///< kind and reads_over_link are the backend's to fill in
  std::unique_ptr<Lanes> lanes_;  ///< of the program's context
};

}  // namespace vramx
