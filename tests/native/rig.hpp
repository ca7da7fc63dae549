// Devices as the tests see them: each with its own way to be busy, to be told to fail, and to say
// what is on the card.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "device/simulated.hpp"
#include "flat.hpp"

namespace rig {

/// One way in which the next call of an operation on such memory fails. Arming it counts from that
/// moment.
struct Fault {
  std::string name;
  std::function<void()> arm;
  std::function<void()> disarm;
  bool only_copies = false;  ///< a drop does not meet it
};

class Rig {
 public:
  virtual ~Rig() = default;

  virtual const Flat& device() const = 0;
  /// A compute stream that nothing else uses. Where no kernels wait in it, tests do its work at
  /// once: they look at bytes, and write some.
  virtual vramx::Stream stream() = 0;
  /// The stream has work that is not over before finish; on a virtual clock, before it is waited
  /// for.
  virtual void occupy(vramx::Stream stream) = 0;
  virtual void finish(vramx::Stream stream) = 0;
  /// A kernel on the stream, which reads or writes bytes of the range alone.
  virtual void launch(vramx::Stream stream, vramx::Range range, std::function<void()> work) = 0;
  /// Carries out what the stream was given, and what that waits for.
  virtual void synchronize(vramx::Stream stream) = 0;
  /// As the hardware counts, and no manager.
  virtual vramx::Bytes on_card() const = 0;
  virtual vramx::Bytes peak_on_card() const = 0;
  virtual vramx::Bytes moved_in() const = 0;
  virtual vramx::Bytes moved_out() const = 0;
  /// Work on `stream` reads, or writes, a range where it lies.
  virtual void use(vramx::Stream stream, vramx::Range range, bool writes) = 0;
  /// Whether what is not on the card can be used over the link.
  virtual bool reads_over_link() const { return device()->traits().reads_over_link; }
  /// Bytes that work used without their being on the card or mapped for it.
  virtual vramx::Bytes faulted() const = 0;
  virtual std::vector<Fault> faults(vramx::Operation operation, vramx::Purpose purpose) const = 0;
  /// A bit of the packed copy of a unit flips on the host before that next crosses the link.
  virtual void damage(vramx::Range unit, std::uint64_t bit) const = 0;
  /// Whether bytes that left the card read as `poison` at their device addresses.
  virtual bool poisons() const = 0;
  /// Whether it makes packed copies of weights.
  virtual bool packs() const { return device().packing() != nullptr; }
  /// Whether memory of what left the card may stay mapped there until something else needs it.
  virtual bool keeps_frames() const { return false; }
  /// Lets go of the device; what it then still holds of the hardware is told, "" for nothing.
  virtual std::string close() = 0;
};

/// Where the program and the card find a range's bytes now: at the host's addresses what is not on
/// the card and has such.
vramx::Range seen(const Flat& device, vramx::Range range);

std::unique_ptr<Rig> simulated(vramx::SimulatedSpec spec = {});
/// The managed device over the stand-in driver, whose counts start from zero. One at a time.
std::unique_ptr<Rig> managed();
/// The mapped device likewise, on a card that uses pinned memory in place, on one that only copies
/// it, where the system pins none, or with no raw host copies beside packed ones.
enum class HostMemory : std::uint8_t { read_in_place, only_copied, pageable, packed_alone };
std::unique_ptr<Rig> mapped(vramx::Bytes unit = 2 * vramx::MiB,
                            HostMemory host = HostMemory::read_in_place);
/// The mapped device for weights and the managed one for scratch, likewise.
std::unique_ptr<Rig> divided();

/// All in mapped memory on a card without managed access, likewise: scratch stays on it.
std::unique_ptr<Rig> confined();

/// Runs a test on every device and fails if any does, or holds something of the hardware
/// afterwards.
void on_each(void (*test)(Rig&));

}  // namespace rig

/// HOLDS("title") { ... rig ... }: a test of every device, which afterwards holds nothing.
#define HOLDS(title)                                          \
  static void CHECK_JOIN(holds_, __LINE__)(rig::Rig & rig);   \
  TEST(title) { rig::on_each(CHECK_JOIN(holds_, __LINE__)); } \
  static void CHECK_JOIN(holds_, __LINE__)(rig::Rig & rig)
