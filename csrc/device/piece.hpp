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

 private:
  struct Memory;
  std::shared_ptr<Memory> memory_;  ///< outlives the piece where the driver refuses to unmap it
};

}  // namespace vramx
