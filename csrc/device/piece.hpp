// Plain memory of the card's, of a mapped store's stock.
#pragma once

#include "device/mapped.hpp"

namespace vramx {

class Piece {
 public:
  Piece(MappedStore& store, Bytes size);
  ~Piece();
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;
  Range range() const;
  /// Its bytes stay, out of reach until it is mapped again.
  void unmap();
  void map();

 private:
  struct Memory;
  std::shared_ptr<Memory> memory_;  ///< outlives the piece where the driver refuses to unmap it
};

}  // namespace vramx
