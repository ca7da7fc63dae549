// How fast bytes go up towards the card, and back down.
#pragma once

namespace vramx {

/// Bytes a second.
struct Rates {
  double up = 50e9;
  double down = 25e9;
};

}  // namespace vramx
