// What tests ask of the stand-in driver; see loopback.h.
#include "state.hpp"

using loopback::state;
using loopback::State;
using Guard = std::lock_guard<std::mutex>;

namespace {

template <class Value>
void set(Value State::* member, Value value) {
  const Guard lock(state().mutex);
  state().*member = value;
}

}  // namespace

extern "C" {

void loopback_counts(LoopbackCounts* counts) {
  const Guard lock(state().mutex);
  state().finish();
  *counts = state().counts;
}

void loopback_reset_peak(void) {
  const Guard lock(state().mutex);
  state().finish();
  state().counts.peak_on_card = state().counts.on_card;
}

uint64_t loopback_calls(const char* entry) {
  const Guard lock(state().mutex);
  const auto it = state().calls.find(entry);
  return it == state().calls.end() ? 0 : it->second;
}

void loopback_fail(const char* entry, uint64_t nth, int result) {
  const Guard lock(state().mutex);
  if (nth == 0) {
    state().failing.erase(entry);
  } else {
    state().failing[entry] = {nth, result};
  }
}

void loopback_damage(uint64_t nth, uint64_t bit) { set(&State::damaging, std::pair(nth, bit)); }

void loopback_set_name(const char* name) { set(&State::name, std::string(name)); }

void loopback_set_version(int version) { set(&State::version, version); }

void loopback_set_cards(int count) { set(&State::cards, count); }

void loopback_set_concurrent_access(int value) { set(&State::concurrent_access, value); }

void loopback_set_managed_memory(int value) { set(&State::managed_memory, value); }

void loopback_set_maps_memory(int value) { set(&State::maps_memory, value); }

void loopback_set_uses_registered(int value) { set(&State::uses_registered, value); }

void loopback_set_capacity(uint64_t bytes) { set(&State::capacity, bytes); }

void loopback_set_pinnable(uint64_t bytes) { set(&State::pinnable, bytes); }

void loopback_set_copies_pageable(int value) { set(&State::copies_pageable, value); }

void loopback_hold(uintptr_t stream) {
  const Guard lock(state().mutex);
  state().streams.at(stream).held = true;
}

void loopback_let_go(uintptr_t stream) {
  const Guard lock(state().mutex);
  loopback::Stream& free = state().streams.at(stream);
  free.held = false;
  if (free.programs) state().finish(stream);
  state().advance();
}

void loopback_set_programs(uintptr_t stream) {
  const Guard lock(state().mutex);
  state().streams.at(stream).programs = true;
}

void loopback_launch(uintptr_t stream, uintptr_t address, uint64_t size, void (*work)(void*),
                     void* argument) {
  const Guard lock(state().mutex);
  state().launch(
      stream,
      {.after = nullptr, .run = [work, argument] { work(argument); }, .names = {{address, size}}});
}

void loopback_finish(uintptr_t stream) {
  const Guard lock(state().mutex);
  state().finish(stream);
}

int loopback_maps(uintptr_t address) {
  State& s = state();
  const Guard lock(s.mutex);
  return s.copies_on_card(address, 1) ? 1 : 0;
}

void loopback_touch(uintptr_t stream, uintptr_t address, uint64_t size, int write) {
  State& s = state();
  const Guard lock(s.mutex);
  const std::uintptr_t first = address / loopback::page_size * loopback::page_size;
  const std::uint64_t whole = (address + size - first + loopback::page_size - 1) /
                              loopback::page_size * loopback::page_size;
  s.submit(stream, {.after = nullptr,
                    .run = [&s, first, whole, write] { s.touch(first, whole, write != 0); },
                    .names = {{first, whole}}});
}

}  // extern "C"
