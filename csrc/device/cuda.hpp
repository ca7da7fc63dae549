// What every kind of CUDA memory has: a card and its context, copy lanes, and fences that are
// events.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "device/device.hpp"
#include "device/driver.hpp"

namespace vramx {

/// What outlives its card while a fence does: a context and its spare events.
struct CudaContext {
  std::shared_ptr<const Driver> driver;
  CUdevice device = 0;
  CUcontext context = nullptr;
  bool apart = false;  ///< made here, and not the one that the program works in
  std::mutex mutex;
  std::vector<CUevent> spare[2];  ///< without and with times

  ~CudaContext();
  /// One more context on the same card.
  std::shared_ptr<CudaContext> another() const;
  Current current() const { return Current(*driver, context); }
  /// Does work that gives things back, with the context current unless that is gone, and every use
  /// of them with it.
  template <class Work>
  void give_back(const Work& work) const noexcept {
    std::optional<Current> here;
    try {
      here.emplace(*driver, context);
    } catch (const Error&) {
      // As said.
    }
    work();
  }
};

/// A fence, which holds its context.
struct CudaEvent final : Mark {
  explicit CudaEvent(std::shared_ptr<CudaContext> of, bool with_time = false);
  ~CudaEvent() override;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  std::shared_ptr<CudaContext> context;
  bool timed;
  CUevent event = nullptr;
  /// Once reached it stays so; the driver takes microseconds to say it again.
  mutable std::atomic<bool> over = false;
};

/// Copy queues. They and the fences on them belong to one context.
struct CudaLanes {
  /// Urgent ones go before the program's work where both are ready.
  CudaLanes(std::shared_ptr<CudaContext> of, unsigned count, bool urgent = false);
  ~CudaLanes();
  CudaLanes(const CudaLanes&) = delete;
  CudaLanes& operator=(const CudaLanes&) = delete;
  CUstream at(Lane lane) const { return streams.at(lane); }

  std::shared_ptr<CudaContext> context;
  std::vector<CUstream> streams;
};

/// A stream by its handle, and back.
inline CUstream stream_of(Stream stream) { return reinterpret_cast<CUstream>(stream); }  // NOLINT
inline Stream number_of(CUstream stream) { return reinterpret_cast<Stream>(stream); }    // NOLINT

class CudaCard final : public Streams {
 public:
  /// Throws NoDevice where the card does not exist. `deny_managed` has it say that it lacks
  /// concurrent managed access.
  CudaCard(const std::string& driver_path, int ordinal, bool deny_managed = false);

  const Facts& facts() const { return facts_; }
  Bytes free_bytes() const;
  const std::shared_ptr<CudaContext>& context() const { return context_; }
  const CudaLanes& lanes() const { return lanes_; }
  const Driver& cuda() const { return *context_->driver; }
  int attribute(CUdevice_attribute which) const;
  /// The lane's stream waits for the fences; the host does not.
  void order_lane(CUstream lane, Fences after) const;

  void order(Stream stream, const Fence& fence) override;
  Fence mark(Stream stream) override;
  Fence clock(Stream stream) override;
  double seconds(const Fence& from, const Fence& to) const override;
  bool reached(const Fence& fence) const noexcept override;
  void wait(const Fence& fence) override;

 private:
  std::shared_ptr<CudaContext> context_;  ///< the program's
  bool deny_managed_;
  Facts facts_;
  CudaLanes lanes_;
};

/// Memory of one kind and its link.
class CudaStore : public Store, public Route {
 public:
  const Traits& traits() const override { return traits_; }
  Route& route(Place /*from*/) override { return *this; }
  Rates rates() const override { return rates_; }
  Fence lane_clock(Lane lane) override;
  /// Tells what moves of such memory reach over this card's link.
  void set_rates(Rates rates) { rates_ = rates; }

 protected:
  /// A card's attribute that a kind of memory cannot do without, and what to say where it is 0:
  /// what to do, if the card has another attribute.
  struct Needs {
    CUdevice_attribute attribute;
    const char* lacking;
    CUdevice_attribute instead;
    const char* remedy;
  };

  /// Throws NoDevice where the card lacks what the memory needs.
  CudaStore(std::shared_ptr<CudaCard> card, Needs needs);

  const Driver& cuda() const { return card_->cuda(); }
  const std::string& name() const { return card_->facts().name; }
  const std::shared_ptr<CudaContext>& context() const { return card_->context(); }
  Current current() const { return context()->current(); }
  /// Records the event on the lane.
  void record(const CudaEvent& event, CUstream lane) const;

  std::shared_ptr<CudaCard> card_;
  Traits traits_;
  Rates rates_;
};

}  // namespace vramx
