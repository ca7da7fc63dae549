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
  EvictMode how = EvictMode::drop;
  EvictCause why = EvictCause::use;

  Place to() const { return below(from); }
};

struct Up {
  BlockId id = 0;
  Place from = Place::host;
  FetchMode how = FetchMode::duplicate;
  FetchCause why = FetchCause::use;

  Place to() const { return above(from); }
};

}  // namespace vramx
