// What a move is made of: a block's way from a place to the next one, down or up.
#pragma once

#include "base/ids.hpp"
#include "device/place.hpp"
#include "device/route.hpp"
#include "table/counts.hpp"

namespace vramx {

struct Down {
  BlockId id = 0;
  Place from = Place::card;
  bool packed = false;  ///< its packed copy alone
  EvictMode how = EvictMode::drop;
  EvictCause why = EvictCause::use;

  Place to() const { return below(from); }
};

struct Up {
  BlockId id = 0;
  Place from = Place::host;
  bool packed = false;  ///< its packed copy alone, to the card
  Bytes crossing = 0;   ///< what of it, in whichever form, is copied
  FetchMode how = FetchMode::duplicate;
  FetchCause why = FetchCause::use;

  Place to() const { return above(from); }
};

}  // namespace vramx
