// Where tensors are put in arenas.
#include "pool/placing.hpp"

#include <random>

#include "check.hpp"

using namespace vramx;

TEST("packed tensors keep their order and never overlap") {
  std::mt19937 random(2);
  for (int round = 0; round < 200; ++round) {
    const Bytes granule = Bytes{1} << (12 + random() % 10);
    const Bytes largest = granule * (1 + random() % 64);
    std::vector<Bytes> sizes(random() % 60);
    for (auto& size : sizes) size = random() % 8 == 0 ? random() % (2 * largest) : random() % 5000;
    const Placing placing = place(sizes, granule, largest);
    REQUIRE(placing.placements.size() == sizes.size());
    Bytes end = 0;
    std::size_t arena = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const Placement& place = placing.placements[i];
      if (place.arena != arena) {
        REQUIRE(place.arena == arena + 1 && place.offset == 0);
        REQUIRE(end + sizes[i] > largest || round_up(end, tensor_alignment) + sizes[i] > largest);
        arena = place.arena;
        end = 0;
      }
      REQUIRE(place.offset % tensor_alignment == 0);
      REQUIRE(place.offset >= end && place.offset - end < tensor_alignment);
      end = place.offset + sizes[i];
      REQUIRE(end <= placing.arenas.at(place.arena));
    }
    for (const Bytes size : placing.arenas) REQUIRE(size % granule == 0);
    REQUIRE(placing.arenas.size() == (sizes.empty() ? 0 : arena + 1));
  }
}
