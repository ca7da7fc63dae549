// The simulated card's work: what is done to bytes, at a moment that its order allows.
//
// Hardware promises the order of copies and kernels and nothing about their moments, so a program
// that forgot to wait is right most of the time. Here the moments are chosen: as soon as may be, as
// late as may be, or by a seed. Whoever forgot to wait is wrong under one of them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "base/range.hpp"

namespace vramx {

/// When work is carried out: as soon as what it waits for is done, once something waits for it, or
/// at any moment in between.
enum class Moment : std::uint8_t { earliest, latest, random };

struct Moments {
  Moment when = Moment::earliest;
  std::uint64_t seed = 0;  ///< of the random ones
};

/// Those of the cards made from now on that are not told theirs. Returns the previous ones.
Moments set_moments(Moments moments);
Moments default_moments();

/// Not safe from several threads.
class SimulatedWork {
 public:
  struct Piece;
  /// Null: done.
  using Ticket = std::shared_ptr<Piece>;
  using Tickets = std::vector<Ticket>;

  explicit SimulatedWork(Moments moments) : when_(moments.when), random_(moments.seed) {}
  ~SimulatedWork();
  SimulatedWork(const SimulatedWork&) = delete;
  SimulatedWork& operator=(const SimulatedWork&) = delete;

  /// `run` is called once, when all of `after` is done; it reads or writes bytes of `range` alone.
  Ticket add(const Tickets& after, Range range, std::function<void()> run);
  static bool done(const Ticket& ticket);
  /// Does it, and before it what it waits for.
  void finish(const Ticket& ticket);
  /// Likewise what names bytes of the range.
  void finish(Range range);
  void finish();
  /// Time passes: something that need not wait may be done.
  void stir();

 private:
  void carry_out(Piece& piece);

  Moment when_;
  std::mt19937_64 random_;
  Tickets pending_;
};

}  // namespace vramx
