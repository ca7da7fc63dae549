// The pool that serves frameworks' allocations.
#include "pool/scratch.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "base/error.hpp"
#include "check.hpp"
#include "loopback.h"
#include "pool/placing.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

constexpr Bytes granules_a_block = 2;

/// A scratch pool over a rig, in small blocks.
struct Pool {
  explicit Pool(rig::Rig& of, Bytes budget_blocks = 64, Bytes host_blocks = 1 << 20)
      : rig(of), block(granules_a_block * of.device()->traits().granule) {
    Settings settings;
    settings.block = block;
    settings.budget = budget_blocks * block;
    settings.host_limit = host_blocks * block;
    settings.threaded = false;
    residency = std::make_shared<Residency>(
        rig.device(), settings, [](const View& view) { return make_strategy("adaptive", view); });
    scratch = std::make_unique<Scratch>(rig.device(), residency, block);
  }

  Range allocate(Bytes size, Stream stream = 0) { return scratch->allocate(size, stream, nullptr); }
  Bytes managed() { return residency->stats().managed; }

  rig::Rig& rig;
  Bytes block;
  std::shared_ptr<Residency> residency;
  std::unique_ptr<Scratch> scratch;
};

void fill(Range range, unsigned char value) { std::memset(range.data(), value, range.size); }

bool filled(Range range, unsigned char value) {
  const auto* bytes = static_cast<const unsigned char*>(range.data());
  return std::all_of(bytes, bytes + range.size, [&](unsigned char byte) { return byte == value; });
}

}  // namespace

HOLDS("no two live allocations overlap, and each is aligned for tensors") {
  Pool pool(rig);
  const Stream streams[] = {rig.stream(), rig.stream()};
  std::mt19937 random(1);
  std::map<Address, Range> live;
  for (int step = 0; step < 2000; ++step) {
    if (live.size() < 40 && random() % 5 < 3) {
      const Bytes asked = random() % 10 == 0 ? random() % (3 * pool.block) : random() % 20000;
      const Range range = pool.allocate(asked, streams[random() % 2]);
      REQUIRE(range.size >= asked && range.size > 0);
      REQUIRE(range.start % tensor_alignment == 0);
      const auto next = live.lower_bound(range.start);
      if (next != live.end()) REQUIRE(range.end() <= next->second.start);
      if (next != live.begin()) REQUIRE(std::prev(next)->second.end() <= range.start);
      live[range.start] = range;
    } else if (!live.empty()) {
      const auto chosen = std::next(live.begin(), static_cast<long>(random() % live.size()));
      pool.scratch->free(chosen->first);
      live.erase(chosen);
    }
    REQUIRE(pool.scratch->live() == live.size());
  }
  for (const auto& [start, range] : live) pool.scratch->free(start);
  REQUIRE(pool.scratch->live() == 0);
  pool.scratch->trim();
  REQUIRE(pool.managed() == 0 && rig.on_card() == 0);
}

HOLDS("what is allocated lies on the card while there is room") {
  Pool pool(rig, 4);
  const Range range = pool.allocate(pool.block);
  REQUIRE(pool.residency->on_card(pool.residency->blocks_of(range)));
  REQUIRE(rig.on_card() > 0 && rig.on_card() <= 4 * pool.block);
  pool.scratch->free(range.start);
}

HOLDS("memory given back is used again at once on its stream") {
  Pool pool(rig);
  const Stream stream = rig.stream();
  const Range first = pool.allocate(10000, stream);
  const Bytes managed = pool.managed();
  pool.scratch->free(first.start);
  for (int turn = 0; turn < 50; ++turn) {
    const Range again = pool.allocate(10000, stream);
    REQUIRE(again.start == first.start);
    pool.scratch->free(again.start);
  }
  REQUIRE(pool.managed() == managed);
}

HOLDS("neighbours given back become one again") {
  Pool pool(rig);
  const Range whole = pool.allocate(3 * pool.block);
  pool.scratch->free(whole.start);
  std::vector<Range> parts;
  for (int i = 0; i < 3; ++i) parts.push_back(pool.allocate(pool.block));
  const Bytes managed = pool.managed();
  for (const int i : {1, 2, 0}) pool.scratch->free(parts[static_cast<std::size_t>(i)].start);
  REQUIRE(pool.allocate(3 * pool.block).start == whole.start);
  REQUIRE(pool.managed() == managed);
  pool.scratch->free(whole.start);
}

HOLDS("no allocation reaches from one arena into the next") {
  Pool pool(rig);
  std::vector<Range> arenas;
  for (int i = 0; i < 4; ++i) arenas.push_back(pool.allocate(8 * pool.block));
  for (const Range& range : arenas) pool.scratch->free(range.start);
  const Bytes managed = pool.managed();
  REQUIRE(managed == 4 * 8 * pool.block);
  const Range twice = pool.allocate(16 * pool.block);
  REQUIRE(pool.managed() > managed);
  pool.scratch->free(twice.start);
  pool.scratch->trim();
  REQUIRE(pool.managed() == 0);
}

HOLDS("another stream waits for the work of the one that gave memory back") {
  Pool pool(rig);
  const Stream busy = rig.stream();
  const Stream other = rig.stream();
  const Range first = pool.allocate(10000, busy);
  rig.occupy(busy);
  pool.scratch->free(first.start);
  const Fence last_use = rig.device()->mark(busy);
  const Range again = pool.allocate(10000, other);
  const Fence present = rig.device()->mark(other);
  if (again.start == first.start) REQUIRE(!rig.device()->reached(present));
  rig.finish(busy);
  rig.device()->wait(present);
  if (again.start == first.start) REQUIRE(rig.device()->reached(last_use));
  REQUIRE(again.start == first.start);
  pool.scratch->free(again.start);
}

HOLDS("memory that a recorded stream used waits for that stream too") {
  Pool pool(rig);
  const Stream own = rig.stream();
  const Stream recorded = rig.stream();
  const Range first = pool.allocate(10000, own);
  pool.scratch->record(first.start, recorded);
  pool.scratch->record(first.start, recorded);
  pool.scratch->record(first.start + 512, recorded);  // no allocation: ignored
  rig.occupy(recorded);
  pool.scratch->free(first.start);
  const Range again = pool.allocate(10000, own);
  const Fence present = rig.device()->mark(own);
  REQUIRE(again.start == first.start);
  REQUIRE(!rig.device()->reached(present));
  rig.finish(recorded);
  rig.device()->wait(present);
  pool.scratch->free(again.start);
}

HOLDS("merged neighbours keep waiting for every stream that used either") {
  Pool pool(rig);
  const Stream left = rig.stream();
  const Stream right = rig.stream();
  const Stream other = rig.stream();
  const Range first = pool.allocate(512, left);
  const Range second = pool.allocate(512, right);
  REQUIRE(first.end() == second.start);
  rig.occupy(left);
  rig.occupy(right);
  pool.scratch->free(first.start);
  pool.scratch->free(second.start);
  const Range both = pool.allocate(1024, other);
  REQUIRE(both.start == first.start);
  const Fence present = rig.device()->mark(other);
  rig.finish(left);
  REQUIRE(!rig.device()->reached(present));
  rig.finish(right);
  rig.device()->wait(present);
  pool.scratch->free(both.start);
}

HOLDS("what is live survives eviction, and what is dead leaves without a copy") {
  Pool pool(rig, 4);
  const Range live = pool.allocate(pool.block);
  const Range dead = pool.allocate(pool.block);
  fill(live, 7);
  pool.scratch->free(dead.start);
  pool.residency->evict(pool.residency->blocks_of(live), nullptr);
  REQUIRE(pool.residency->stats().moved_out >= pool.block);
  const Bytes moved_out = pool.residency->stats().moved_out;
  pool.residency->evict(pool.residency->blocks_of(dead), nullptr);
  REQUIRE(pool.residency->stats().moved_out == moved_out);
  REQUIRE(pool.residency->stats().discarded > 0);
  pool.residency->take(pool.residency->blocks_of(live), 0, true, nullptr);
  REQUIRE(filled(live, 7));
  pool.residency->give(pool.residency->blocks_of(live), 0, true);
  pool.scratch->free(live.start);
}

TEST("what was given back is discarded only when its last uses are over") {
  const auto rig = rig::managed();
  Pool pool(*rig, 4);
  const Stream own = rig->stream();
  const Stream recorded = rig->stream();
  for (const Stream busy : {own, recorded}) {
    const Range range = pool.allocate(pool.block, own);
    const Blocks blocks = pool.residency->blocks_of(range);
    pool.scratch->record(range.start, recorded);
    rig->occupy(busy);
    pool.scratch->free(range.start);
    const std::uint64_t discarded = loopback_calls("cuMemDiscardBatchAsync");
    const std::uint64_t waited = loopback_calls("cuEventSynchronize");
    std::atomic<bool> gone{false};
    Thread evicts([&] {
      pool.residency->evict(blocks, nullptr);
      gone = true;
    });
    await([&] { return gone || loopback_calls("cuEventSynchronize") != waited; });
    const bool too_early = loopback_calls("cuMemDiscardBatchAsync") != discarded;
    rig->finish(busy);
    evicts.join();
    REQUIRE(!too_early);
    REQUIRE(loopback_calls("cuMemDiscardBatchAsync") == discarded + 1);
  }
}

HOLDS("a block with one live allocation in it is not dead") {
  Pool pool(rig, 4);
  const Range kept = pool.allocate(1000);
  const Range gone = pool.allocate(1000);
  REQUIRE(gone.start == kept.end());
  fill(kept, 9);
  pool.scratch->free(gone.start);
  const Blocks blocks = pool.residency->blocks_of(kept);
  pool.residency->evict(blocks, nullptr);
  REQUIRE(pool.residency->stats().discarded == 0);
  pool.residency->take(blocks, 0, true, nullptr);
  REQUIRE(filled(kept, 9));
  pool.residency->give(blocks, 0, true);
  pool.scratch->free(kept.start);
}

HOLDS("activations larger than the budget keep their bytes, within the budget") {
  Pool pool(rig, 4);
  std::vector<Range> ranges;
  const auto use = [&](Range range, const auto& act) {
    const Blocks blocks = pool.residency->blocks_of(range);
    pool.residency->take(blocks, 0, true, nullptr);
    act();
    pool.residency->written(blocks, Place::card);
    pool.residency->give(blocks, 0, true);
  };
  for (unsigned char i = 0; i < 12; ++i) {
    ranges.push_back(pool.allocate(pool.block));
    use(ranges.back(), [&] { fill(ranges.back(), i); });
  }
  for (unsigned char i = 12; i-- > 0;) {
    use(ranges[i], [&] { REQUIRE(filled(ranges[i], i)); });
    pool.scratch->free(ranges[i].start);
  }
  REQUIRE(rig.peak_on_card() <= 4 * pool.block);
}

HOLDS("trim gives back what nothing lives in, and only that") {
  Pool pool(rig);
  const Range kept = pool.allocate(pool.block);
  std::vector<Range> large;
  for (int i = 0; i < 3; ++i) large.push_back(pool.allocate(20 * pool.block));
  const Bytes most = pool.managed();
  for (const Range& range : large) pool.scratch->free(range.start);
  REQUIRE(pool.managed() == most);
  fill(kept, 3);
  pool.scratch->trim();
  REQUIRE(pool.managed() == most - 60 * pool.block);
  REQUIRE(filled(kept, 3));
  pool.scratch->free(kept.start);
  pool.scratch->trim();
  REQUIRE(pool.managed() == 0);
}

HOLDS("at the host limit idle memory is given back before an allocation fails") {
  if (!rig.reads_over_link()) return;
  Pool pool(rig, 4, 40);
  const Range idle = pool.allocate(30 * pool.block);
  pool.scratch->free(idle.start);
  const Range range = pool.allocate(35 * pool.block);
  REQUIRE_THROWS(OutOfMemory, pool.allocate(10 * pool.block));
  REQUIRE(pool.scratch->live() == 1);
  const Range small = pool.allocate(pool.block);
  pool.scratch->free(small.start);
  pool.scratch->free(range.start);
}

HOLDS("an allocation that fails takes nothing, and the next one works") {
  for (const Operation operation : {Operation::reserve, Operation::fetch}) {
    for (const auto& fault : rig.faults(operation, Purpose::scratch)) {
      Pool pool(rig, 4);
      fault.arm();
      try {
        // The pool may have a way around the fault.
        pool.scratch->free(pool.allocate(pool.block).start);
      } catch (const Error&) {
      }
      fault.disarm();
      REQUIRE(pool.scratch->live() == 0);
      const Range range = pool.allocate(pool.block);
      fill(range, 5);
      REQUIRE(filled(range, 5));
      pool.scratch->free(range.start);
      pool.scratch->trim();
      REQUIRE(pool.managed() == 0 && rig.on_card() == 0);
    }
  }
}

HOLDS("what the live allocations take is known, and whether it is as much as was watched for") {
  Pool pool(rig);
  REQUIRE(pool.scratch->live_bytes() == 0 && !pool.scratch->grew());
  const Range first = pool.allocate(1000);
  pool.scratch->watch_for(first.size + 1);
  REQUIRE(pool.scratch->live_bytes() == first.size && !pool.scratch->grew());
  const Range second = pool.allocate(3 * pool.block);
  REQUIRE(pool.scratch->live_bytes() == first.size + second.size && pool.scratch->grew());
  pool.scratch->free(second.start);
  pool.scratch->free(second.start);
  REQUIRE(pool.scratch->live_bytes() == first.size && !pool.scratch->grew());
  pool.scratch->free(first.start);
  REQUIRE(pool.scratch->live_bytes() == 0);
}

HOLDS("what is abandoned leaves without a copy, and is used again once it is given back") {
  Pool pool(rig, 8);
  const Range kept = pool.allocate(pool.block);
  const Range left = pool.allocate(pool.block);
  fill(kept, 6);
  pool.scratch->abandon(left.start);
  pool.scratch->abandon(left.start);
  pool.scratch->abandon(left.start + 512);  // no allocation: ignored
  REQUIRE(pool.scratch->live() == 2 && pool.scratch->live_bytes() == kept.size);
  pool.residency->evict(pool.residency->blocks_of(left), nullptr);
  REQUIRE(pool.residency->stats().discarded == pool.block);
  REQUIRE(pool.residency->stats().moved_out == 0);
  const Range other = pool.allocate(pool.block);
  REQUIRE(other.start != left.start);  // its owner has it still
  pool.scratch->free(left.start);
  REQUIRE(pool.scratch->live() == 2 && pool.scratch->live_bytes() == kept.size + other.size);
  const Range again = pool.allocate(pool.block);
  REQUIRE(again.start == left.start);
  fill(again, 7);
  pool.residency->evict(pool.residency->blocks_of(again), nullptr);
  REQUIRE(pool.residency->stats().moved_out == pool.block);  // it lives
  REQUIRE(filled(kept, 6));
  for (const Range& range : {kept, other, again}) pool.scratch->free(range.start);
  REQUIRE(pool.scratch->live_bytes() == 0);
}

HOLDS("giving back what was not allocated, or twice, does nothing") {
  Pool pool(rig);
  const Range range = pool.allocate(1000);
  pool.scratch->free(range.start + 512);
  pool.scratch->free(0);
  REQUIRE(pool.scratch->live() == 1);
  pool.scratch->free(range.start);
  pool.scratch->free(range.start);
  REQUIRE(pool.scratch->live() == 0);
}

HOLDS("memory may be given back after the end of its session") {
  Pool pool(rig);
  const Range range = pool.allocate(1000);
  const Range other = pool.allocate(1000);
  fill(range, 8);
  pool.residency->close(nullptr);
  REQUIRE(filled(range, 8));
  pool.scratch->free(range.start);
  pool.scratch->free(other.start);
  pool.scratch->trim();
  REQUIRE(pool.managed() == 0);
}

TEST("a thread that holds leases allocates while another waits for room") {
  const auto rig = rig::simulated();
  Pool pool(*rig, 2);
  const Range held = pool.allocate(2 * pool.block);
  const Blocks blocks = pool.residency->blocks_of(held);
  pool.residency->take(blocks, 0, true, nullptr);  // all of the budget
  std::atomic<bool> served{false};
  std::atomic<int> polls{0};
  bool stuck = false;
  Waiting waits;
  const Poll poll = [&, tell = waits.poll()] {
    tell();
    // Only a deadlock lets this thread wait for so long once the other asks.
    if (++polls > 100 && !served) throw std::runtime_error("nobody is served");
  };
  Thread other([&] {
    try {
      pool.scratch->free(pool.scratch->allocate(pool.block, 1, poll).start);
    } catch (const std::runtime_error&) {
      stuck = true;
    }
  });
  waits.await();
  const Range more = pool.allocate(512);
  served = true;
  pool.scratch->free(more.start);
  pool.residency->give(blocks, 0, true);
  other.join();
  REQUIRE(!stuck);
  pool.scratch->free(held.start);
}

HOLDS("threads allocate, write and give back at the same time") {
  Pool pool(rig, 64);
  const Stream streams[] = {rig.stream(), rig.stream()};
  std::vector<std::unique_ptr<Thread>> threads;
  for (unsigned number = 0; number < 4; ++number) {
    threads.push_back(std::make_unique<Thread>([&pool, &streams, number] {
      std::mt19937 random(number);
      std::vector<Range> live;
      for (int step = 0; step < 300; ++step) {
        if (live.size() < 8 && random() % 2 == 0) {
          live.push_back(pool.allocate(512 + random() % 8192, streams[number % 2]));
          fill(live.back(), static_cast<unsigned char>(number + 1));
        } else if (!live.empty()) {
          REQUIRE(filled(live.back(), static_cast<unsigned char>(number + 1)));
          pool.scratch->free(live.back().start);
          live.pop_back();
        }
      }
      for (const Range& range : live) pool.scratch->free(range.start);
    }));
  }
  for (auto& thread : threads) thread->join();
  REQUIRE(pool.scratch->live() == 0);
  pool.scratch->trim();
  REQUIRE(pool.managed() == 0);
}

TEST("what has no place but the card lies there until it is given back, whoever needs room") {
  const auto rig = rig::confined();
  {
    Pool pool(*rig, 4);
    std::vector<std::unique_ptr<Thread>> threads;
    for (unsigned number = 0; number < 4; ++number) {
      threads.push_back(std::make_unique<Thread>([&pool, number] {
        std::mt19937 random(number);
        const auto mark = static_cast<unsigned char>(number + 1);
        for (int step = 0; step < 300; ++step) {
          try {
            const Range range = pool.allocate(pool.block / 4 + random() % pool.block);
            fill(range, mark);
            REQUIRE(filled(range, mark));
            pool.scratch->free(range.start);
          } catch (const OutOfMemory&) {
            continue;  // the others have it all
          }
        }
      }));
    }
    for (auto& thread : threads) thread->join();
    REQUIRE(rig->peak_on_card() <= 4 * pool.block);
    REQUIRE(rig->moved_in() == 0 && rig->moved_out() == 0);
  }
  REQUIRE(rig->close().empty());
}

TEST("a stream that cannot be marked as memory is given back costs nothing else") {
  const auto rig = rig::managed();
  for (const std::uint64_t nth : {1, 2, 3}) {
    Pool pool(*rig, 4);
    std::vector<Range> ranges;
    for (int i = 0; i < 4; ++i) ranges.push_back(pool.allocate(1000));
    pool.scratch->free(ranges[0].start);
    pool.scratch->free(ranges[2].start);
    loopback_fail("cuEventRecord", nth, 1);
    pool.scratch->free(ranges[1].start);
    loopback_fail("cuEventRecord", 0, 0);
    pool.scratch->free(ranges[3].start);
    REQUIRE(pool.scratch->live() == 0);
    REQUIRE(pool.allocate(4000).start == ranges[0].start);
    pool.scratch->free(ranges[0].start);
    pool.scratch->trim();
    REQUIRE(pool.managed() == 0);
  }
}
