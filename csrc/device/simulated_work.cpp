#include "device/simulated_work.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

namespace vramx {

struct SimulatedWork::Piece {
  Tickets after;
  Range range;
  std::function<void()> run;
  std::size_t place = 0;  ///< among what is pending
  bool done = false;

  bool ready() const { return std::all_of(after.begin(), after.end(), SimulatedWork::done); }
};

namespace {

std::mutex mutex;
Moments moments_of_new_cards;

}  // namespace

Moments set_moments(Moments moments) {
  const std::lock_guard lock(mutex);
  return std::exchange(moments_of_new_cards, moments);
}

Moments default_moments() {
  const std::lock_guard lock(mutex);
  return moments_of_new_cards;
}

// One by one: pieces that hold each other in a long row would be taken down recursively.
SimulatedWork::~SimulatedWork() {
  for (const Ticket& piece : pending_) piece->after.clear();
}

bool SimulatedWork::done(const Ticket& ticket) { return !ticket || ticket->done; }

SimulatedWork::Ticket SimulatedWork::add(const Tickets& after, Range range,
                                         std::function<void()> run) {
  auto piece = std::make_shared<Piece>();
  std::copy_if(after.begin(), after.end(), std::back_inserter(piece->after),
               [](const Ticket& each) { return !done(each); });
  piece->range = range;
  piece->run = std::move(run);
  piece->place = pending_.size();
  pending_.push_back(piece);
  if (when_ == Moment::earliest) finish(piece);
  stir();
  return piece;
}

void SimulatedWork::carry_out(Piece& piece) {
  const Ticket mine = pending_[piece.place];
  pending_.back()->place = piece.place;
  std::swap(pending_[piece.place], pending_.back());
  pending_.pop_back();
  piece.done = true;
  piece.after.clear();
  std::exchange(piece.run, nullptr)();
}

void SimulatedWork::finish(const Ticket& ticket) {
  Tickets open{ticket};
  while (!open.empty()) {
    const Ticket next = open.back();
    if (done(next)) {
      open.pop_back();
      continue;
    }
    std::erase_if(next->after, done);
    if (next->after.empty()) {
      carry_out(*next);
    } else {
      open.push_back(next->after.front());
    }
  }
}

void SimulatedWork::finish(Range range) {
  Tickets named;
  std::copy_if(pending_.begin(), pending_.end(), std::back_inserter(named),
               [&](const Ticket& piece) { return piece->range.overlaps(range); });
  for (const Ticket& piece : named) finish(piece);
}

void SimulatedWork::finish() {
  while (!pending_.empty()) finish(pending_.front());
}

void SimulatedWork::stir() {
  if (when_ != Moment::random) return;
  while (!pending_.empty() && random_() % 2 == 0) {
    const Ticket any = pending_[random_() % pending_.size()];
    if (any->ready()) carry_out(*any);
  }
}

}  // namespace vramx
