// Packed copies of a store's weights: on the host beside the raw ones, and on the card as it is
// told.
//
// - Pieces of one or more whole units are packed, each by itself. Ranges given to the routes are
// one
//   or more of these pieces.
// - A packed copy is clean: who writes to the raw one forgets it, before anything else is fetched
//   from it.
// - Packed bytes are compared with their digest as they arrive on the card, and trusted there. What
//   is unpacked from damaged ones is wrong, but lies nowhere else.
// - Like the store's own, the routes' calls are safe from any thread; two on overlapping ranges
//   must not run at once.
#pragma once

#include <cstdint>
#include <vector>

#include "base/range.hpp"
#include "device/route.hpp"
#include "forms/tables.hpp"

namespace vramx {

class Packing {
 public:
  virtual ~Packing() = default;

  /// So many raw bytes are about to be packed, at most, and then they are: what that takes may be
  /// had once for all of them. Calls may nest, and come from several threads. begin throws as pack.
  virtual void begin(Bytes /*raw*/) {}
  virtual void end() noexcept {}
  /// Makes the packed copy of a piece that has none and whose bytes are on the host, where the
  /// types of some of them are known, by offset in it. Returns its size; 0 where it would not be
  /// smaller by 5 %, and there is none then. A store that does not keep raw bytes gives those of a
  /// packed piece back to the system, and makes them again of the packed copy for whoever needs
  /// them. It blocks the host, and takes `scratch` bytes of the
  /// card's memory meanwhile. Throws OutOfMemory where the host or the card has no room for it;
  /// then there is none.
  virtual Bytes pack(Range piece, const std::vector<TypedRange>& types) = 0;
  virtual Bytes scratch(Bytes piece) const = 0;
  /// The raw copies are about to differ: the host's packed copies of the pieces that hold some of
  /// the range are no more. None of them is on the card; what was asked for before still comes.
  virtual void forget(Range range) noexcept = 0;
  /// The pieces whose packed bytes arrived damaged, as far as that has happened by now. Each is
  /// told once, even if it was forgotten meanwhile. Asks the card nothing.
  virtual std::vector<Range> damaged() = 0;
  /// What a packed copy of so many bytes takes of the card's memory, there.
  virtual Bytes room(Bytes packed) const { return packed; }
  /// What it takes of the card's memory for packed bytes that are unpacked as they arrive, from the
  /// first of them on, while there is a packed copy at all.
  virtual Bytes staging() const = 0;
  /// There is room now for what `staging` tells of.
  virtual void grant() noexcept {}
  /// Gives that memory of the card back; it may be taken again as it is used.
  virtual void trim() noexcept = 0;
  /// Raw bytes a second, as they were seen to be unpacked.
  virtual double rate() const = 0;

  /// From the host to the card: it crosses packed, and arrives raw.
  virtual Route& link() = 0;
  /// From the host to the card, packed, and off it; `evict` gives its memory there back.
  virtual Route& hold() = 0;
  /// From a packed copy on the card, once that has arrived.
  virtual Route& unpack() = 0;
};

}  // namespace vramx
