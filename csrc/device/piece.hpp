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
  Range range() const { return addresses_.range(); }

 private:
  MappedStore& store_;
  Addresses addresses_;
  Handle memory_;
};

}  // namespace vramx
