#include <algorithm>
#include <vector>

#include "plan/plan.hpp"
#include "plan/spans.hpp"

namespace vramx {

namespace {

/// A block that leaves and comes back over the link, once a pass.
struct Return {
  Bytes size = 0;
  Bytes crossing = 0;
  bool written = false;
  std::uint64_t leaves_after = 0;  ///< step of the pass
  std::uint64_t needed_by = 0;     ///< step of the pass
};

}  // namespace

Bytes most_unpacked(const Trace& trace, const Plan& plan) {
  Bytes most = 0;
  for (std::size_t step = 0; step < trace.steps.size(); ++step) {
    Bytes bytes = 0;
    const auto& blocks = trace.steps[step].blocks;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (plan.levels[step][i] == Level::kept_packed) bytes += trace.blocks[blocks[i]].size;
    }
    most = std::max(most, bytes);
  }
  return most;
}

Prediction predict(const Trace& trace, const Plan& plan, Bytes budget, Rates rates) {
  constexpr std::uint64_t passes = 3;  // the first has a start, which the others have not
  const std::uint64_t steps = trace.steps.size();
  Prediction prediction;
  std::vector<Return> by_departure;
  std::vector<bool> packed(trace.blocks.size());
  std::vector<Bytes> unpacked(steps);
  // At the start of a pass: what stays across it, and room in which the next blocks are unpacked.
  Bytes present = most_unpacked(trace, plan);
  for (const Span& span : spans_of(trace)) {
    const TracedBlock& block = trace.blocks[span.block];
    const Level level = plan.levels[span.from][span.place];
    const std::uint64_t needed_by = span.to % steps;
    if (level == Level::streamed || level == Level::streamed_packed) {
      const Bytes crossing = level == Level::streamed ? block.size : block.packed;
      by_departure.push_back({block.size, crossing, block.written, span.from, needed_by});
      prediction.moved_in += crossing;
      prediction.raw_in += block.size;
      if (block.written) prediction.moved_out += block.size;
    } else if (level == Level::kept && span.to >= steps) {
      present += block.size;
    }
    if (level == Level::streamed_packed || level == Level::kept_packed) {
      unpacked[needed_by] += block.size;
      prediction.unpacked += block.size;
    }
    if (level == Level::kept_packed && !packed[span.block]) {
      packed[span.block] = true;
      present += block.packed_room;
    }
  }
  std::vector<Return> by_need = by_departure;
  std::stable_sort(by_need.begin(), by_need.end(),
                   [](const Return& a, const Return& b) { return a.needed_by < b.needed_by; });

  double now = 0;
  double arrived = 0;  // when the link to the card is free again
  double left = 0;     // and the one back
  double pass_began = 0;
  // Room comes in the order of departure: how much in all, from when.
  struct Room {
    double bytes;
    double from;
  };
  const auto scratch_at = [&](std::uint64_t step) {
    return static_cast<double>(trace.steps[step].scratch);
  };
  std::vector<Room> rooms = {
      {static_cast<double>(budget) - static_cast<double>(present) - scratch_at(steps - 1), 0}};
  std::size_t room = 0;
  double fetched = 0;
  for (std::uint64_t pass = 0; pass < passes; ++pass) {
    pass_began = now;
    auto next = by_need.begin();
    auto leaves = by_departure.begin();
    for (std::uint64_t step = 0; step < steps; ++step) {
      const double more = scratch_at(step) - scratch_at((step + steps - 1) % steps);
      if (more < 0) rooms.push_back({rooms.back().bytes - more, now});
      for (; next != by_need.end() && next->needed_by == step; ++next) {
        fetched += static_cast<double>(next->size);
        while (room + 1 < rooms.size() && rooms[room].bytes < fetched) ++room;
        arrived =
            std::max(arrived, rooms[room].from) + static_cast<double>(next->crossing) / rates.up;
        now = std::max(now, arrived);
      }
      if (more > 0) fetched += more;
      if (unpacked[step] > 0) now += static_cast<double>(unpacked[step]) / rates.unpack;
      now += trace.steps[step].seconds;
      for (; leaves != by_departure.end() && leaves->leaves_after == step; ++leaves) {
        const auto bytes = static_cast<double>(leaves->size);
        if (leaves->written) left = std::max(left, now) + bytes / rates.down;
        rooms.push_back({rooms.back().bytes + bytes, leaves->written ? left : now});
      }
    }
  }
  prediction.seconds = now - pass_began;
  return prediction;
}

}  // namespace vramx
