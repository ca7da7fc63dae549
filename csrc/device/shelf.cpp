#include "device/shelf.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace vramx {

namespace {

/// As many as may ever be there: addresses cost nothing.
Bytes addresses_for(const MappedStore& store) {
  return round_up(store.card()->facts().capacity, store.traits().granule);
}

}  // namespace

Shelf::Shelf(MappedStore& store, Bytes place, CUstream readers)
    : store_(store),
      place_(place),
      readers_(readers),
      addresses_(store.card()->context()->driver, addresses_for(store), store.traits().granule) {}

Shelf::~Shelf() {
  guests_.clear();
  shrink();
}

void Shelf::grow(std::size_t places) {
  const Bytes needed = round_up(places * place_, store_.traits().granule);
  const Bytes had = layers_.empty() ? 0 : layers_.back().at.end() - addresses_.range().start;
  if (needed <= had) return;
  const CudaCard& card = *store_.card();
  CardMemory& memory = store_.frames().memory();
  const Range at{addresses_.range().start + had, needed - had};
  layers_.reserve(layers_.size() + 1);
  const Handle handle = memory.take(at.size);
  try {
    map_on_card(card.cuda(), card.context()->device, at, handle);
  } catch (...) {
    memory.give(at.size, handle);
    throw;
  }
  layers_.push_back({at, handle});
}

void Shelf::unmap_from(std::size_t place) {
  while (!layers_.empty() && layers_.back().at.start >= address_of(place)) {
    const auto [at, handle] = layers_.back();
    const Driver& cuda = store_.card()->cuda();
    cuda.check(cuda.unmap(at.start, at.size), "cuMemUnmap");
    store_.frames().memory().give(at.size, handle);
    layers_.pop_back();
  }
}

void Shelf::shrink() noexcept {
  while (!guests_.empty() && guests_.back() == nullptr) guests_.pop_back();
  try {
    unmap_from(guests_.size());
  } catch (const Error&) {
    // The next one to come finds it there.
  }
}

void Shelf::add(Guest& guest) {
  const auto gap = std::ranges::find(guests_, nullptr);
  const auto place = static_cast<std::size_t>(gap - guests_.begin());
  if (gap == guests_.end()) {
    guests_.reserve(place + 1);
    grow(place + 1);
    guests_.push_back(&guest);
  } else {
    *gap = &guest;
  }
  guest.shelf = this;
  guest.place = place;
}

void Shelf::follow(Guest& from, std::size_t to) {
  CudaCard& card = *store_.card();
  card.order_lane(readers_, {&from.arrived, 1});
  card.cuda().check(
      card.cuda().copy_on_card(address_of(to), address_of(from.place), place_, readers_),
      "cuMemcpyDtoDAsync");
  card.cuda().check(card.cuda().stream_wait(readers_), "cuStreamSynchronize");
  guests_[from.place] = nullptr;
  guests_[to] = &from;
  from.place = to;
}

void Shelf::remove(Guest& guest) {
  const std::size_t place = guest.place;
  if (place + 1 == guests_.size()) unmap_from(place);
  drop(guest);
}

void Shelf::drop(Guest& guest) noexcept {
  const std::size_t place = guest.place;
  guests_[place] = nullptr;
  guest = {};
  shrink();
  if (place >= guests_.size()) return;
  try {
    follow(*guests_.back(), place);
  } catch (const Error&) {
    return;  // a gap, for the next one
  }
  shrink();
}

}  // namespace vramx
