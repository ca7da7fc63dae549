// A card made of host memory, with a virtual clock: how vramx is tested and tried without a GPU.
//
// Every range has a device copy, at the addresses handed out, and a host copy. Bytes that left the
// card are overwritten with `poison`, so that a read without a lease is wrong and a test sees it.
// Weights' host copies have addresses of their own, as in mapped memory, or are out of the
// program's sight, as if both were one page of managed memory; those of scratch always are, and are
// of no use where scratch stays on the card.
//
// Time is virtual and moves only by what is asked of the card: each lane and stream has a cursor in
// seconds, each direction of the link carries one transfer at a time, and a request costs its lane
// `latency` before its bytes flow. The same calls always give the same times.
//
// Bytes move at any moment that the contract allows, see simulated_work.hpp. A kernel is carried
// out in its stream's order. What the program does with the processor comes at once, so a stream
// without kernels is never behind it: what is asked in such a stream's order is done as it is
// asked.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "device/device.hpp"
#include "device/simulated_work.hpp"

namespace vramx {

inline constexpr unsigned char poison = 0xD5;

struct SimulatedSpec {
  Bytes capacity = 8 * GiB;
  Rates link = {.up = 25e9, .down = 25e9};
  double latency = 10e-6;  ///< seconds a request
  unsigned lanes = 2;
  Bytes granule = 64 * KiB;
  Bytes host_memory = 1024 * GiB;
  bool reads_over_link = true;
  bool host_addresses = true;  ///< weights', unless the card does not read over the link
  bool managed_access = true;  ///< else scratch stays on the card
  bool check_drops = false;    ///< a drop of bytes with one address compares the copies and throws
                               ///< UnreportedWrite
  double unpack_rate = 0;      ///< raw bytes a second; 0: it has no packed copies
  bool keeps_raw = true;  ///< else the raw host bytes of packed weights are poison until needed
  Moments moments = default_moments();
};

/// What can be told to fail.
enum class Operation : std::uint8_t { reserve, fetch, evict, map_host, pack };
inline constexpr std::size_t operations = 5;

class SimulatedPacking;

class SimulatedDevice final : public Device, public Streams, public Store, public Route {
 public:
  explicit SimulatedDevice(SimulatedSpec spec);
  ~SimulatedDevice() override;

  const Facts& facts() const override { return facts_; }
  Bytes free_bytes() const override;
  Streams& streams() override { return *this; }
  Store& memory(Purpose /*purpose*/) override { return *this; }

  const Traits& traits() const override { return traits_; }
  Route& route(Place /*from*/) override { return *this; }
  Packing* packing() override;
  Rates rates() const override { return spec_.link; }
  Range reserve(Bytes size, Purpose purpose) override;
  bool confines(Purpose purpose) const override {
    return purpose == Purpose::scratch && !spec_.managed_access;
  }
  void release(Range range) noexcept override;
  void store(Address to, const void* from, Bytes size) override;
  void load(void* to, Address from, Bytes size) override;
  Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
  Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;
  void map_host(Range range) override;
  void unmap_host(Range range) override;
  void use_over_link(Stream stream, Range range) override;
  Address host_address(Address address) const override;
  Address idle_address(Range range) const override;
  Bytes given_back_bytes() const override;
  void refresh(Stream stream, Range range) override;
  void save(Stream stream, Range range) override;
  void order(Stream stream, const Fence& fence) override;
  Fence mark(Stream stream) override;
  Fence clock(Stream stream) override { return mark(stream); }
  double seconds(const Fence& from, const Fence& to) const override;
  bool reached(const Fence& fence) const noexcept override;
  void wait(const Fence& fence) override;
  void settle(Range range) noexcept override;

  /// Adds `seconds` of compute to a stream.
  void compute(Stream stream, double seconds);
  /// A kernel on a stream: `work` reads or writes bytes of `range` alone, and calls no device. It
  /// takes no virtual time.
  void launch(Stream stream, Range range, std::function<void()> work);
  /// Carries out what a stream, or anybody, was given. No virtual time passes.
  void synchronize(Stream stream);
  void synchronize();
  /// Whether the bytes of a range are at the card's addresses; else they are at the host's, if the
  /// range has such.
  bool holds(Range range) const;
  /// The virtual time, in seconds, at which all work asked for so far is done.
  double now() const;
  /// Virtual seconds that streams spent waiting for fences.
  double stalled() const override;
  /// The most bytes on the card at one virtual time, counted here and not by any manager.
  Bytes peak_on_card() const;
  Bytes on_card() const;
  /// What moves and uses over the link took to the card, and back; and what copies of weights that
  /// were written took.
  Bytes moved_in() const;
  Bytes moved_out() const;
  Bytes refreshed() const;
  Bytes saved() const;
  /// The `nth` call (1 is the next) of an operation throws; 0 takes that back.
  void fail(Operation operation, std::uint64_t nth);
  /// A bit flips on the host, in the packed copy of what is at an address.
  void damage(Address address, std::uint64_t bit);
  /// Fetches wait, holding their thread, until let_go. For forcing races in tests.
  void hold();
  void let_go();

 private:
  friend class SimulatedPacking;
  struct Chunk;
  struct Time;
  /// A queue: when it is through with what it was given, and the last of that.
  struct Queue {
    double at = 0;
    SimulatedWork::Ticket last{};
  };

  Chunk& chunk(Range range);
  const Chunk& chunk(Range range) const;
  Chunk& placed(Range range);
  unsigned char* copy_in_use(Range range);
  unsigned char* raw_bytes(const Chunk& chunk, Range range);
  bool holds_on_host(const Chunk& chunk, Range range) const;
  void injected(Operation operation);
  std::unique_lock<std::mutex> begin_fetch();
  Chunk& absent(Range range);
  void check_room(Bytes more) const;
  void check_host_room(Bytes more) const;
  void carry(std::int64_t bytes);
  double cross(double from, Bytes bytes);
  static double latest(Fences after);
  static SimulatedWork::Tickets tickets(Fences after);
  void account(double at, std::int64_t bytes);
  Queue& queue(Stream stream);
  void submit(Queue& queue, Range range, std::function<void()> work);
  const Chunk& two_copies(Range range) const;

  SimulatedSpec spec_;
  Facts facts_;
  Traits traits_;
  mutable std::mutex mutex_;
  std::condition_variable gate_;
  bool held_ = false;
  std::map<Address, Chunk> chunks_;
  Bytes host_used_ = 0;
  std::array<std::uint64_t, operations> failing_{};
  mutable SimulatedWork work_;
  std::map<Stream, Queue> streams_;
  std::vector<Queue> lanes_;
  std::array<double, 2> link_{};
  double host_now_ = 0;
  double stalled_ = 0;
  Bytes on_card_ = 0;
  Bytes moved_in_ = 0;
  Bytes moved_out_ = 0;
  Bytes refreshed_ = 0;
  Bytes saved_ = 0;
  std::int64_t carried_on_card_ = 0;        ///< by what was carried out
  std::int64_t most_on_card_ = 0;           ///< of that
  std::map<double, std::int64_t> changes_;  ///< bytes on the card, by virtual time
  std::unique_ptr<SimulatedPacking> packing_;
};

}  // namespace vramx
