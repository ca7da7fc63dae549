// The card's memory for copies of about one size, kept without gaps: what the card maps at once is
// coarser than they are.
#pragma once

#include <vector>

#include "device/mapped.hpp"

namespace vramx {

/// A stack of places. Who leaves one below the top is followed there by who has the top one. Calls
/// want the card's context current, and one at a time.
class Shelf {
 public:
  /// Who has a place, as long as it does.
  struct Guest {
    Shelf* shelf = nullptr;
    std::size_t place = 0;
    Fence arrived{};  ///< what it brought

    Address address() const { return shelf->address_of(place); }
  };

  /// Of places so large, in memory of a store that outlives it. What moves is copied on a stream,
  /// on which all that reads them runs too.
  Shelf(MappedStore& store, Bytes place, CUstream readers);
  ~Shelf();
  Shelf(const Shelf&) = delete;
  Shelf& operator=(const Shelf&) = delete;

  /// Gives a place to a guest that has none. On a throw nothing has changed.
  void add(Guest& guest);
  /// The guest's uses are over, and it has no place any more. Waits for what moves. Throws, and
  /// nothing has changed, where the driver refuses to unmap the top place of one that has it; what
  /// it refuses below is used or given back later.
  void remove(Guest& guest);
  /// Likewise, but whatever is refused is used or given back later.
  void drop(Guest& guest) noexcept;

  /// What places of such a size take, beside one granule of a shelf's.
  static Bytes place_for(Bytes size) { return round_up(size, 512 * KiB); }

 private:
  struct Layer {
    Range at;
    Handle memory;
  };

  Address address_of(std::size_t place) const { return addresses_.range().start + place * place_; }
  void grow(std::size_t places);
  void unmap_from(std::size_t place);
  void shrink() noexcept;
  void follow(Guest& from, std::size_t to);

  MappedStore& store_;
  Bytes place_;
  CUstream readers_;
  Addresses addresses_;
  std::vector<Guest*> guests_;  ///< by place; null for none
  std::vector<Layer> layers_;   ///< of memory, from the first address on
};

}  // namespace vramx
