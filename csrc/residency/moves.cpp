#include "residency/moves.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vramx {

using State = Block::State;

Moves::Moves(std::shared_ptr<Device> device, BlockTable& table, Strategy& strategy, Notes& notes,
             const Settings& settings, const std::atomic<Bytes>& budget, Finished finished)
    : device_(std::move(device)),
      table_(table),
      strategy_(strategy),
      notes_(notes),
      settings_(settings),
      budget_(budget),
      finished_(std::move(finished)),
      mover_(device_, settings.threaded, settings.profiled) {}

// Neighbours in one job move in one request, where the first is there only when the last one is: so
// no more than a full block's bytes.
std::size_t Moves::fetch(const Blocks& wanted, FetchCause why, const Evictable& evictable,
                         Place to) {
  const EvictCause room = why == FetchCause::use        ? EvictCause::use
                          : why == FetchCause::prefetch ? EvictCause::prefetch
                                                        : EvictCause::ahead;
  std::size_t count = 0;
  while (count < wanted.size()) {
    Falls falls;
    Rises rises;
    Bytes size = 0;
    PerPlace<Bytes> need{};
    while (count + rises.size() < wanted.size()) {
      const Block& block = table_[wanted[count + rises.size()]];
      if (!rises.empty() && size + block.range.size > settings_.block) break;
      PerPlace<Bytes> together = need;
      for (Place place = to; place < block.at; place = below(place)) {
        together[place] += block.range.size;
      }
      Rise rise{.id = table_.id_of(block), .holds = to == Place::card && takes_packed(block)};
      if (rise.holds) {
        PerPlace<Bytes> with_packed = together;
        with_packed[Place::card] += block.packed_room;
        rise.holds = make_room(with_packed, evictable, false, falls);
        if (rise.holds) together = with_packed;
      }
      if (!rise.holds && !make_room(together, evictable, why == FetchCause::use, falls)) break;
      need = together;
      size += block.range.size;
      rises.push_back(rise);
    }
    if (rises.empty()) break;
    count += rises.size();
    submit(falls, rises, to, room, why);
  }
  return count;
}

// All or nothing: a policy that throws is told the contrary of what it had been told.
void Moves::tell_strategy(const Asked& moves) {
  std::vector<std::pair<BlockId, bool>> told;
  try {
    for (const Down& hop : moves.down) {
      if (hop.from != Place::card || hop.packed) continue;
      strategy_.evicted(hop.id);
      told.emplace_back(hop.id, true);
    }
    for (const Up& hop : moves.up) {
      if (hop.to() != Place::card || hop.packed) continue;
      strategy_.fetched(hop.id);
      told.emplace_back(hop.id, false);
    }
  } catch (...) {
    for (const auto& [id, was_on_card] : told) retell_strategy(id, was_on_card);
    throw;
  }
}

// What did not happen after all. A policy that throws again is as it is.
void Moves::retell_strategy(BlockId id, bool on_card) noexcept {
  try {
    if (on_card) {
      strategy_.fetched(id);
    } else {
      strategy_.evicted(id);
    }
  } catch (...) {
    ++failed_;
  }
}

std::vector<Down> Moves::go_down(const Falls& falls, EvictCause why, Job& job) {
  std::vector<Down> hops;
  for (const auto& [id, from, packed] : falls) {
    Block& block = table_[id];
    if (packed) {
      drop_packed(block, why, job, hops);
      continue;
    }
    Eviction departure{.route = &memory_of(block).route(below(from)),
                       .range = block.range,
                       .home = block.home,
                       .how = block.evict_mode(from),
                       .after = {}};
    // Where it falls on at once the hop before has waited for its uses.
    if (from == block.at) departure.after = block.fences(device_->streams());
    if (from != Place::card) {
      // The program may have written where it lies, at its own address.
      const bool reachable = memory_of(block).host_address(block.range.start) != 0;
      if (reachable && !block.dead) departure.how = EvictMode::write_back;
      unmap_idle(block);
    }
    if (settings_.profiled) departure.name = "evict " + table_.name_of(block);
    hops.push_back({.id = id,
                    .from = from,
                    .how = departure.how,
                    .why = block.released ? EvictCause::plan : why});
    job.evictions.push_back(std::move(departure));
  }
  return hops;
}

std::vector<Up> Moves::go_up(const Rises& rises, Place to, FetchCause why, Job& job) {
  Place lowest = to;
  for (const Rise& rise : rises) lowest = std::max(lowest, table_[rise.id].at);
  std::vector<Up> hops;
  for (Place from = lowest; from > to; from = above(from)) {
    for (const auto& [id, holds] : rises) {
      Block& block = table_[id];
      if (block.at < from) continue;
      if (from == Place::host && holds) hold_packed(block, why, job, hops);
      const auto [route, crossing] = way_up(block, from, holds);
      Fetch arrival{.route = route,
                    .range = block.range,
                    .home = block.home,
                    .how = block.fetch_mode(above(from))};
      if (above(from) == Place::card && block.host_mapped) {
        arrival.host_mapped_in = &memory_of(block);
      }
      if (settings_.profiled) arrival.name = "fetch " + table_.name_of(block);
      hops.push_back(
          {.id = id, .from = from, .crossing = crossing, .how = arrival.how, .why = why});
      job.fetches.push_back(std::move(arrival));
    }
  }
  return hops;
}

void Moves::submit(const Falls& falls, const Rises& rises, Place to, EvictCause evicted_for,
                   FetchCause fetched_for) {
  Job job;
  job.number = ++last_job_;
  job.timed = notes_.kept() != 0;
  Asked asked{.down = go_down(falls, evicted_for, job),
              .up = go_up(rises, to, fetched_for, job),
              .journal = notes_.kept(),
              .submitted = notes_.now()};
  tell_strategy(asked);
  const auto set_out = [this](BlockId id, State state, Place ends) {
    const auto change = table_.change(id);
    Block& block = table_[id];
    block.error = nullptr;
    block.state = state;
    block.at = ends;
    if (state == State::fetching) block.released = false;
  };
  for (const Down& hop : asked.down) {
    if (hop.packed) {
      set_packed_on_card(hop.id, false);
    } else {
      set_out(hop.id, State::evicting, hop.to());
    }
  }
  for (const auto& [id, holds] : rises) {
    if (holds) set_packed_on_card(id, true);
    set_out(id, State::fetching, to);
  }
  peak_resident_ = std::max(peak_resident_, table_.sums().held[Place::card]);
  under_way_[job.number] = std::move(asked);
  job.done = [this, number = job.number](Outcome& outcome) { finished_(number, outcome); };
  mover_.submit(std::move(job));
}

void Moves::settle(std::uint64_t job, Outcome& outcome) {
  // Let go under the lock too: from then on its blocks alone hold the failure.
  const std::exception_ptr error = std::move(outcome.error);
  settle(under_way_.at(job), outcome, error);
  under_way_.erase(job);
  if (!error) return;
  ++failed_;
  notes_.failure(error);
  // They counted on room that this one did not make.
  for (const auto& [number, outcome_before] : mover_.take_back()) {
    settle(under_way_.at(number), outcome_before, nullptr);
    under_way_.erase(number);
  }
}

void Moves::fell(Block& block, const Down& hop) {
  block.copied(hop.to());
  if (block.lowest > Place::host) strategy_.moved(hop.id, hop.from, hop.to());
  if (hop.to() == block.at) block.state = State::at_rest;
  block.arrival = nullptr;
  block.uses.clear();
  if (hop.from == Place::card) block.damaged = false;
  table_.count(block, [&](Counts& counts) {
    if (hop.from == Place::card) {
      counts.went(hop.why, hop.how, block.range.size);
    } else {
      counts.fell(hop.how, block.range.size);
    }
  });
  if (hop.from == Place::card && block.accessed_by && block.at == Place::host) try_map_host(block);
}

void Moves::rose(Block& block, const Up& hop, const Fence& arrival) {
  if (block.lowest > Place::host) strategy_.moved(hop.id, hop.from, hop.to());
  table_.count(block, [&](Counts& counts) {
    if (hop.to() == Place::card) {
      counts.came(hop.why, hop.how, block.range.size, hop.crossing);
    } else {
      counts.rose(hop.how, block.range.size);
    }
  });
  if (hop.to() != block.at) return;
  block.state = State::at_rest;
  if (hop.to() != Place::card) {
    if (block.accessed_by) try_map_host(block);
    return;
  }
  block.arrival = arrival;
  block.ordered.clear();
  if (hop.how != FetchMode::duplicate) block.written(Place::card);
}

// What did not move rests where it was, or where an earlier hop has taken it. The hops that were to
// follow find it at rest.
void Moves::stayed(Block& block, Place from, const std::exception_ptr& error, bool noted) {
  block.error = error;
  if (block.settled()) return;
  const bool on_card = from == Place::card;
  const bool meant_for_card = block.at == Place::card;
  block.state = State::at_rest;
  block.at = from;
  if (!on_card) {
    block.copied(from);
    block.damaged = false;
  }
  if (!on_card && !meant_for_card) return;
  retell_strategy(table_.id_of(block), on_card);
  if (!noted) notes_.correct_start(block, on_card);
}

void Moves::settle(const Asked& moves, const Outcome& outcome, const std::exception_ptr& error) {
  const bool noted = moves.journal == notes_.kept();
  for (std::size_t i = 0; i < moves.down.size(); ++i) {
    const Down& hop = moves.down[i];
    Block& block = table_[hop.id];
    const BlockTable::Change change(table_, block);
    if (hop.packed) {
      block.packed_on_card = i >= outcome.evicted;
      if (block.packed_on_card) {
        if (!noted) notes_.correct_start_packed(block);
        continue;
      }
      block.packed_departure = outcome.freed[i];
      if (noted && notes_) {
        notes_.move(block, hop, moves.submitted, outcome.issues.at(i), outcome.freed[i]);
      }
      forget_stale(block);
      continue;
    }
    if (i >= outcome.evicted) {
      stayed(block, hop.from, error, noted);
      continue;
    }
    if (hop.from == Place::card) block.departure = outcome.freed[i];
    fell(block, hop);
    forget_stale(block);
    if (noted && notes_) {
      notes_.move(block, hop, moves.submitted, outcome.issues.at(i), outcome.freed[i]);
    }
  }
  for (std::size_t i = 0; i < moves.up.size(); ++i) {
    const Up& hop = moves.up[i];
    Block& block = table_[hop.id];
    const BlockTable::Change change(table_, block);
    if (hop.to() == Place::card && i < outcome.unmapped) block.host_mapped = false;
    if (hop.packed) {
      block.packed_on_card = i < outcome.arrivals.size();
      if (!block.packed_on_card) {
        if (!noted) notes_.correct_start_packed(block);
        continue;
      }
      table_.count(block, [&](Counts& counts) { counts.held_packed(hop.crossing); });
      if (noted && notes_) {
        notes_.move(block, hop, moves.submitted, outcome.issues.at(outcome.evicted + i),
                    outcome.arrivals[i]);
      }
      continue;
    }
    if (i >= outcome.arrivals.size()) {
      stayed(block, hop.from, error, noted);
      continue;
    }
    rose(block, hop, outcome.arrivals[i]);
    if (noted && notes_) {
      notes_.move(block, hop, moves.submitted, outcome.issues.at(outcome.evicted + i),
                  outcome.arrivals[i]);
    }
  }
}

void Moves::map_host(Block& block) {
  if (block.host_mapped) return;
  memory_of(block).map_host(block.range);
  block.host_mapped = true;
}

void Moves::try_map_host(Block& block) noexcept {
  try {
    map_host(block);
  } catch (const Error&) {
    ++failed_;
  }
}

void Moves::use_over_link(Block& block, Stream stream) {
  map_host(block);
  written(block, Place::host);
  if (block.leases > 1) return;
  memory_of(block).use_over_link(stream, block.range);
  table_.count(block, [&](Counts& counts) { counts.over_link += block.range.size; });
}

void Moves::unmap_idle(Block& block) {
  if (!block.host_mapped || !block.away() || block.leases > 0) return;
  memory_of(block).unmap_host(block.range);
  block.host_mapped = false;
}

}  // namespace vramx
