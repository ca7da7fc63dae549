// The sums of a table of blocks, counted once more.
#pragma once

#include <algorithm>

#include "check.hpp"
#include "table/block_table.hpp"

namespace rig {

using vramx::Block;
using vramx::BlockId;
using vramx::Blocks;
using vramx::BlockTable;
using vramx::Bytes;
using vramx::Place;
using vramx::Sums;

/// What the table is to say, by its blocks.
inline void recount(const BlockTable& table) {
  Sums sums;
  Blocks unwanted;
  for (BlockId id = 0; id < table.size(); ++id) {
    const Block& each = table[id];
    if (each.state == Block::State::unused) continue;
    const Bytes size = each.range.size;
    const bool free = each.settled() && each.leases == 0;
    const bool stays = each.confined && !each.dead;
    sums.managed += size;
    if (!each.confined) sums.held[Place::host] += size;
    if (each.at == Place::card) {
      sums.held[Place::card] += size;
      if (each.leases > 0) sums.leased += size;
      if (free && !stays) sums.idle[Place::card] += size;
      if (each.dead) ++sums.dead_on_card;
    }
    if (each.packed_on_card) {
      REQUIRE(each.packed > 0);
      sums.held[Place::card] += each.packed_room;
      if (each.settled()) sums.idle[Place::card] += each.packed_room;
      const bool wanted = each.keeps_packed && !each.packed_stale && !each.dead && each.read_mostly;
      if (each.settled() && !wanted) unwanted.push_back(id);
    }
    if (!each.dead && !(each.settled() && each.at == Place::card)) ++sums.away;
  }
  sums.held[Place::card] += table.sums().reserved;
  const Sums& said = table.sums();
  REQUIRE(said.managed == sums.managed && said.leased == sums.leased);
  REQUIRE(said.held[Place::card] == sums.held[Place::card]);
  REQUIRE(said.held[Place::host] == sums.held[Place::host]);
  REQUIRE(said.idle[Place::card] == sums.idle[Place::card]);
  REQUIRE(said.dead_on_card == sums.dead_on_card && said.away == sums.away);
  Blocks listed = table.packed_unwanted();
  std::ranges::sort(listed);
  REQUIRE(listed == unwanted);
}

}  // namespace rig
