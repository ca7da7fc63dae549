#include "core/pointers.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <shared_mutex>

#include "base/error.hpp"

namespace vramx {

namespace {

// Host addresses to the card's, of all sessions: a tensor does not say which one it is of.
std::shared_mutex mutex;
std::map<Address, Range> card_ranges;

// The words of a storage's object that may hold its address. What follows is of other kinds.
constexpr std::size_t words_looked_at = 6;

Address* word_that_holds(Address object, Address address) {
  auto* words = reinterpret_cast<Address*>(object);  // NOLINT
  Address* found = nullptr;
  for (std::size_t i = 0; i < words_looked_at; ++i) {
    if (words[i] != address) continue;
    if (found != nullptr) return nullptr;
    found = words + i;
  }
  return found;
}

}  // namespace

Address card_address(Address address) {
  const std::shared_lock lock(mutex);
  auto it = card_ranges.upper_bound(address);
  if (it == card_ranges.begin()) return address;
  --it;
  const Bytes offset = address - it->first;
  return offset < it->second.size ? it->second.start + offset : address;
}

// The storages may be gone by now.
Pointers::~Pointers() {
  const std::unique_lock lock(mutex);
  for (const auto& [start, pointer] : pointers_) card_ranges.erase(pointer->away);
}

bool Pointers::add(Address object, Range card) {
  const Address host = weights().host_address(card.start);
  const Address away = host != 0 ? host : weights().idle_address(card);
  if (away == 0) return false;
  Address* const word = word_that_holds(object, card.start);
  if (word == nullptr) {
    throw BadConfig(
        "this release of the framework does not keep a storage's address where vramx looks for "
        "it, so its weights cannot lie in mapped memory; use backend=\"managed\"");
  }
  auto made = std::make_shared<Pointer>(
      Pointer{.word = word, .card = card, .away = away, .in_place = host != 0});
  {
    const std::unique_lock lock(mutex);
    card_ranges[away] = card;
  }
  pointers_[card.start] = std::move(made);
  *word = away;
  return true;
}

void Pointers::forget(Range card) {
  for (const auto& pointer : of(card)) {
    {
      const std::unique_lock lock(mutex);
      card_ranges.erase(pointer->away);
    }
    pointers_.erase(pointer->card.start);
    pointer->word = nullptr;
  }
}

Pointers::Some Pointers::of(Range card) const {
  Some found;
  auto it = pointers_.upper_bound(card.start);
  if (it != pointers_.begin()) --it;
  for (; it != pointers_.end() && it->first < card.end(); ++it) {
    if (it->second->card.overlaps(card)) found.push_back(it->second);
  }
  return found;
}

void Pointers::hold(const Some& pointers, const Some& away, Stream stream) {
  auto next = pointers.begin();
  try {
    for (; next != pointers.end(); ++next) {
      Pointer& pointer = **next;
      if (pointer.holders == 0 && std::find(away.begin(), away.end(), *next) == away.end()) {
        if (pointer.in_place && (pointer.stale || pointer.exposed)) {
          weights().refresh(stream, pointer.card);
          pointer.refreshed = device_->streams().mark(stream);
          pointer.refreshed_on = stream;
        }
        pointer.stale = false;
        pointer.point(pointer.card.start);
      }
      if (pointer.refreshed && pointer.refreshed_on != stream) {
        if (device_->streams().reached(pointer.refreshed)) pointer.refreshed = nullptr;
        device_->streams().order(stream, pointer.refreshed);
      }
      ++pointer.holders;
    }
  } catch (...) {
    let_go({pointers.begin(), next}, stream);
    throw;
  }
}

void Pointers::let_go(const Some& pointers, Stream stream) {
  std::exception_ptr failure;
  for (const auto& pointer : pointers) {
    auto& others = pointer->wrote_on;
    if (--pointer->holders > 0) {
      const bool known = std::find(others.begin(), others.end(), stream) != others.end();
      if (pointer->written && !known) others.push_back(stream);
      continue;
    }
    try {
      std::erase(others, stream);
      for (const Stream other : others)
        device_->streams().order(stream, mark_or_nothing(device_->streams(), other));
      const bool saves = pointer->in_place && pointer->written && pointer->word != nullptr;
      if (saves) weights().save(stream, pointer->card);
      for (const Stream other : others)
        device_->streams().order(other, device_->streams().mark(stream));
    } catch (...) {
      failure = std::current_exception();
    }
    others.clear();
    pointer->written = false;
    pointer->point(pointer->away);
  }
  if (failure) std::rethrow_exception(failure);
}

void Pointers::written(const Some& pointers) {
  for (const auto& pointer : pointers) {
    (pointer->on_card() ? pointer->written : pointer->stale) = true;
  }
}

void Pointers::expose(const Some& pointers, bool exposed) {
  for (const auto& pointer : pointers) pointer->exposed = exposed;
}

void Pointers::settle() {
  for (const auto& [start, pointer] : pointers_) {
    if (!pointer->in_place && weights().idle_address(pointer->card) == 0) {
      pointer->point(pointer->card.start);
    }
  }
}

}  // namespace vramx
