// Memory for one purpose: its ranges, and the places in which their bytes have copies.
//
// - Sizes are bytes. Ranges given to map_host and unmap_host are as those given to a route.
// - A reserved range starts in the lowest place. What is on the host and not on the card may be
//   mapped for the card, and is unmapped before it moves.
// - On throw nothing has changed. release, settle and trim never throw.
// - release and settle may block the host. All calls are safe from any thread. Two calls on
//   overlapping ranges must not run at once.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.hpp"
#include "base/range.hpp"
#include "device/place.hpp"
#include "device/route.hpp"
#include "device/streams.hpp"

namespace vramx {

/// What a range is for. Weights are read far more than written and keep a valid host copy while on
/// the card; scratch is written by the program at any time.
enum class Purpose : std::uint8_t { weights, scratch };

struct Traits {
  Bytes granule = 2 * MiB;       ///< the unit of placement and alignment
  Bytes unit = 2 * MiB;          ///< the unit of movement: a multiple of the granule
  bool reads_over_link = false;  ///< map_host works, unless reads_in_place says otherwise
  bool host_addresses = false;   ///< weights may have a host_address
  /// Else the host has the raw bytes of packed weights as long as something needs them.
  bool keeps_raw = true;
  /// The card's memory of a range that left stays with that range until the driver needs it for
  /// another: bytes in use, as the system counts them, say nothing of residency.
  bool keeps_what_leaves = false;
};

class Packing;

class Store {
 public:
  virtual ~Store() = default;

  virtual const Traits& traits() const = 0;
  /// The lowest place of a range, in which it starts.
  virtual Place lowest() const { return Place::host; }
  /// The way up from a place, which is below the card. One that ends at the host uses store and
  /// load, which come after what was asked before, and is done on return.
  virtual Route& route(Place from) = 0;
  /// From the host to the card.
  Route& link() { return route(Place::host); }
  /// Packed copies of weights; null where it makes none.
  virtual Packing* packing() { return nullptr; }

  /// Addresses for `size` bytes (a multiple of the granule), which may read as anything. Throws
  /// BadConfig for another size, and OutOfMemory where the host or an allowance is exhausted.
  virtual Range reserve(Bytes size, Purpose purpose) = 0;
  /// Whether bytes for a use have no copy below the card. They come as nothing, and leave it only
  /// when nobody needs them; store and load reach them on the card.
  virtual bool confines(Purpose /*purpose*/) const { return false; }
  /// Gives back a range exactly as reserved, wherever it is. No move of it may be in flight.
  virtual void release(Range range) noexcept = 0;

  /// Copies into, or out of, the host copy of bytes that are on the host, or were told to leave.
  virtual void store(Address to, const void* from, Bytes size) = 0;
  virtual void load(void* to, Address from, Bytes size) = 0;

  /// Whether map_host works on the range.
  virtual bool reads_in_place(Range /*range*/) const { return traits().reads_over_link; }
  /// Lets the card use a range where it lies on the host, over the link, at its host address if it
  /// has one; unmap_host ends that.
  virtual void map_host(Range range) = 0;
  virtual void unmap_host(Range range) = 0;
  /// A stream is about to use a range that is mapped for the card.
  virtual void use_over_link(Stream stream, Range range) = 0;

  /// Where the card reads the host copy of weights at an address of their own; 0 where there is no
  /// such address. It stays readable, on the card or not, until the range is released.
  virtual Address host_address(Address /*address*/) const { return 0; }
  /// Where a framework's storage of weights without a host_address points while no lease holds it:
  /// at that address every use is a fault. 0 where it points at the card's copy, which is there.
  virtual Address idle_address(Range /*range*/) const { return 0; }
  /// In the stream's order: the host copy's bytes to the card's copy of a range with host addresses
  /// that is on the card, or back. They need not be whole units.
  virtual void refresh(Stream stream, Range range);
  virtual void save(Stream stream, Range range);

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

  /// Host memory that could not be pinned, so that the card does not read it in place.
  virtual Bytes pageable_bytes() const { return 0; }
  /// Raw bytes that the host does not have, but for their packed copies.
  virtual Bytes given_back_bytes() const { return 0; }
  /// Why launches wait for moves that need not; empty where they do not.
  virtual std::string holds_up_launches() const { return {}; }
};

/// Throws BadConfig where `size` is none that reserve takes.
void check_reservation(const Traits& traits, Bytes size);

}  // namespace vramx
