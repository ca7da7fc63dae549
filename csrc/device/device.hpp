// The one interface to hardware. It moves what it is told to move and decides nothing.
//
// Contract, the same for every device and held by tests/conformance:
// - Sizes are bytes. Ranges given to bring, leave, expose and conceal lie inside one reserved range
//   and consist of whole units: facts().unit each, counted from the start of the reserved range,
//   whose last unit may be shorter.
// - A reserved range starts on the host. bring and leave alternate; a range on the host may instead
//   be exposed, and is concealed before it is brought.
// - On throw nothing has changed. release, settle, trim and reached never throw.
// - No call synchronises the device. Only wait, release, settle and leave, on its `after`, block
//   the host.
// - All calls are safe from any thread. Two calls on overlapping ranges must not run at once.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/bytes.hpp"
#include "base/range.hpp"

namespace vramx {

/// What a range is for. Weights are read far more than written and keep a valid host copy while on
/// the card; scratch is written by the program at any time.
enum class Use : std::uint8_t { weights, scratch };

/// How a range comes to the card: its host copy stays valid, or does not, or there is nothing in it
/// that anybody needs and no bytes need cross the link.
enum class Arrive : std::uint8_t { duplicate, move, empty };

/// What happens to the card's bytes: forgotten because the host copy is valid, copied back, or
/// forgotten because nobody needs them.
enum class Leave : std::uint8_t { drop, write_back, discard };

/// A queue of compute work: a CUstream handle, or the number of a simulated stream.
using Stream = std::uintptr_t;

/// The number of a copy queue, below facts().lanes.
using Lane = unsigned;

/// A point in a queue of work. Null: a point already reached.
struct Mark {
  virtual ~Mark() = default;
};
using Fence = std::shared_ptr<const Mark>;
using Fences = std::span<const Fence>;

struct Facts {
  std::string name;              ///< the card's name
  std::string kind;              ///< "managed", "mapped", "simulated"
  int ordinal = 0;               ///< the card's number
  std::string uuid;              ///< "GPU-…", as NVML writes it; empty where there is none
  Bytes capacity = 0;            ///< the card's memory
  Bytes granule = 2 * MiB;       ///< the unit of placement and alignment
  Bytes unit = 2 * MiB;          ///< the unit of movement: a multiple of the granule
  unsigned lanes = 2;            ///< copy queues
  bool reads_over_link = false;  ///< expose works, unless reads_in_place says otherwise
  bool host_addresses = false;   ///< weights may have a host_address
  bool asynchronous = true;      ///< moves take host time, so a mover thread pays
  double to_card = 50e9;         ///< about what moves reach over the link, bytes a second
  double to_host = 25e9;
  /// The card's memory of a range that left stays with that range until the driver needs it for
  /// another: bytes in use, as the system counts them, say nothing of residency.
  bool keeps_what_leaves = false;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const Facts& facts() const = 0;
  /// Bytes of the card's memory not in use by anybody, as the device reports it.
  virtual Bytes free_bytes() const = 0;

  /// Addresses for `size` bytes (a multiple of the granule), on the host, where they may read as
  /// anything. Throws BadConfig for another size, and OutOfMemory where the host or an allowance is
  /// exhausted.
  virtual Range reserve(Bytes size, Use use) = 0;
  /// Gives back a range exactly as reserved, on the card or not. No move of it may be in flight.
  virtual void release(Range range) noexcept = 0;

  /// Copies into, or out of, the host copy of bytes that are on the host, or were told to leave.
  virtual void store(Address to, const void* from, Bytes size) = 0;
  virtual void load(void* to, Address from, Bytes size) = 0;

  /// Starts moving `range` to the card on `lane` once `after` is reached, and once all that the
  /// lane was given to bring before has come; the fence marks arrival.
  virtual Fence bring(Range range, Arrive how, Lane lane, Fences after) = 0;
  /// Takes `range` off the card once `after` is reached; the fence marks when its memory is free.
  /// What is written back of weights with host addresses is there on return.
  virtual Fence leave(Range range, Leave how, Lane lane, Fences after) = 0;

  /// Whether expose works on the range.
  virtual bool reads_in_place(Range /*range*/) const { return facts().reads_over_link; }
  /// Lets the card use a range where it lies on the host, over the link, at its host address if it
  /// has one; conceal ends that.
  virtual void expose(Range range) = 0;
  virtual void conceal(Range range) = 0;
  /// A stream is about to use an exposed range.
  virtual void use_over_link(Stream stream, Range range) = 0;

  /// Where the card reads the host copy of weights at an address of their own; 0 where there is no
  /// such address. It stays readable, on the card or not, until the range is released.
  virtual Address host_address(Address /*address*/) const { return 0; }
  /// In the stream's order: the host copy's bytes to the card's copy of a range with host addresses
  /// that is on the card, or back. They need not be whole units.
  virtual void refresh(Stream stream, Range range);
  virtual void save(Stream stream, Range range);

  /// The stream waits for the fence; the host does not.
  virtual void order(Stream stream, const Fence& fence) = 0;
  /// A fence at the present end of the stream.
  virtual Fence mark(Stream stream) = 0;
  /// As mark, and a point in time too: `seconds` tells how far two that were reached lie apart.
  virtual Fence clock(Stream stream) = 0;
  virtual double seconds(const Fence& from, const Fence& to) const = 0;
  /// As clock, of what a lane has been given; null where the device does not tell.
  virtual Fence lane_clock(Lane /*lane*/) { return nullptr; }
  virtual bool reached(const Fence& fence) const noexcept = 0;
  virtual void wait(const Fence& fence) = 0;

  /// Throws OutOfMemory where so much of the card's memory cannot be had at one time, as things
  /// are.
  virtual void check_budget(Bytes /*budget*/) const {}
  /// What it has of the card's memory for itself: what is on the card and what it keeps for later
  /// moves. 0 where it keeps nothing.
  virtual Bytes card_bytes() const { return 0; }
  /// Lets go of what it keeps for later moves, down to `most` in all.
  virtual void trim(Bytes /*most*/) noexcept {}

  /// From now on the bytes stay readable without management, wherever they are.
  virtual void settle(Range range) noexcept = 0;
};

/// Throws BadConfig where `size` is none that reserve takes.
void check_reservation(const Facts& facts, Bytes size);

/// The end of a stream; null where the stream is gone, since nothing is left to run on it then.
Fence mark_or_nothing(Device& device, Stream stream) noexcept;

/// The present time of a stream; null where it cannot be told.
Fence clock_or_nothing(Device& device, Stream stream) noexcept;

}  // namespace vramx
