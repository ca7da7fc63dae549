// How fast bytes go up towards the card, and back down, and are unpacked there.
#pragma once

namespace vramx {

/// Bytes a second.
struct Rates {
  double up = 50e9;
  double down = 25e9;
  double unpack = 0;  ///< raw ones; 0 where nothing is packed
};

}  // namespace vramx
