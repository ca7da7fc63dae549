// Where a framework's storages point.
//
// Weights whose host copy has an address of its own need not be on the card to be used: a storage
// of such weights points at the host copy, which the card reads and writes over the link, until a
// lease holds it. Under the lease it points at the card's copy. So a use that no lease covers is
// slow, and right wherever the bytes are.
//
// Where host copies have no such address, but the card's own would show another block's bytes while
// these are not there, a storage points at an idle address meanwhile, at which every use is a
// fault. Then the card's copy is the one that the program writes, under leases.
//
// Each copy is brought up to date, in the order of the program's stream, when the other one was
// written: the card's as a lease begins, the host's as the last one ends. So the host copy is never
// older. Streams that wrote, or use what another one brought up to date, wait for each other.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "device/device.hpp"

namespace vramx {

/// The range on the card whose host copy holds this address, or whose idle address it is, for an
/// address of such weights; any other as it is.
Address card_address(Address address);

/// One storage.
struct Pointer {
  Address* word;  ///< where the framework keeps the storage's address; null once that is gone
  Range card;
  Address away;                    ///< where it points without a lease
  bool in_place = true;            ///< the host copy is there; else nothing is
  unsigned holders = 0;            ///< leases
  bool stale = false;              ///< the host copy was written after the card's
  bool exposed = false;            ///< the host copy may be written at any time, by its address
  bool addressed = false;          ///< the card's address was handed out under a lease
  bool written = false;            ///< the card's copy was written under the present leases
  std::vector<Stream> wrote_on{};  ///< those of them that have ended
  Stream refreshed_on = 0;
  Fence refreshed{};  ///< when the card's copy was up to date; null: long ago

  void point(Address address) const {
    if (word != nullptr) *word = address;
  }
  bool on_card() const { return word != nullptr && *word == card.start; }
};

/// Calls come one at a time: under the interpreter's lock.
class Pointers {
 public:
  using Some = std::vector<std::shared_ptr<Pointer>>;

  explicit Pointers(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~Pointers();
  Pointers(const Pointers&) = delete;
  Pointers& operator=(const Pointers&) = delete;

  /// Takes charge of a storage whose object lies at `object` and which points at the card's copy.
  /// Returns false, and does nothing, where it may go on pointing there. Throws BadConfig where the
  /// object does not show its address.
  bool add(Address object, Range card);
  /// Lets go of the storages in a range, which may be gone. Without a lease they point at the host
  /// copy, and do so from now on.
  void forget(Range card);
  /// Those that hold any byte of a range.
  Some of(Range card) const;

  /// A lease begins on `stream`. They point at the card, but for those that are `away` from it. On
  /// a throw nothing is held.
  void hold(const Some& pointers, const Some& away, Stream stream);
  /// A lease ends. On a throw it has ended too.
  void let_go(const Some& pointers, Stream stream);
  /// The program wrote to them where they point.
  static void written(const Some& pointers);
  /// The program has the addresses of their host copies, or reports again what it writes there.
  static void expose(const Some& pointers, bool exposed);
  /// No lease will come any more: what is at idle addresses points at the card, if its bytes were
  /// brought there for good.
  void settle();

 private:
  Store& weights() const { return device_->memory(Purpose::weights); }

  std::shared_ptr<Device> device_;
  std::map<Address, std::shared_ptr<Pointer>> pointers_;  ///< by the card's address
};

}  // namespace vramx
