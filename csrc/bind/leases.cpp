#include "bind/leases.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <exception>

#include "bind/bind.hpp"

namespace nb = nanobind;

namespace vramx::bind {

Blocks blocks_of(Core& core, const Ranges& ranges) {
  Blocks all;
  for (const auto& [start, size] : ranges) {
    for (const BlockId id : core.residency().blocks_of({start, size})) {
      if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
    }
  }
  return all;
}

Pointers::Some pointers_of(Core& core, const Ranges& ranges) {
  Pointers::Some all;
  for (const auto& [start, size] : ranges) {
    for (const auto& pointer : core.pointers().of({start, size})) {
      if (std::find(all.begin(), all.end(), pointer) == all.end()) all.push_back(pointer);
    }
  }
  return all;
}

Ranges without_pointers(Core& core, const Ranges& ranges) {
  Ranges others;
  for (const auto& [start, size] : ranges) {
    if (core.pointers().of({start, size}).empty()) others.emplace_back(start, size);
  }
  return others;
}

bool acquire(Core& core, GroupId group, Stream stream) {
  static const Poll poll = python_signals();
  bool on_card = false;
  {
    const nb::gil_scoped_release unlocked;
    on_card = core.residency().acquire(group, stream, poll);
  }
  if (PyErr_CheckSignals() == 0) return on_card;
  const nb::python_error raised;
  release(core, group, stream);
  throw raised;
}

void release(Core& core, GroupId group, Stream stream) {
  const nb::gil_scoped_release unlocked;
  core.residency().release(group, stream);
}

void hold(Core& core, const Pointers::Some& pointers, Stream stream, bool all_on_card) {
  std::vector<Address> away;
  if (!all_on_card) {
    const nb::gil_scoped_release unlocked;  // a policy written in Python may want it
    for (const auto& pointer : pointers) {
      const Range range = pointer->card;
      if (!core.residency().on_card(core.residency().blocks_of(range))) away.push_back(range.start);
    }
  }
  core.pointers().hold(pointers, stream, [&](Range range) {
    return std::find(away.begin(), away.end(), range.start) == away.end();
  });
}

void take(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  bool on_card = false;
  {
    const nb::gil_scoped_release unlocked;
    on_card =
        core.residency().take(blocks_of(core, ranges), stream, held_by_thread, python_signals());
  }
  const auto leave = [&] {
    const nb::gil_scoped_release unlocked;
    core.residency().give(blocks_of(core, ranges), stream, held_by_thread);
  };
  if (PyErr_CheckSignals() != 0) {
    const nb::python_error raised;
    leave();
    throw raised;
  }
  try {
    hold(core, pointers_of(core, ranges), stream, on_card);
  } catch (...) {
    leave();
    throw;
  }
}

void give(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  // Whether the program wrote to them meanwhile, nobody says.
  const Pointers::Some pointers = pointers_of(core, ranges);
  Pointers::written(pointers);
  std::exception_ptr failure;
  try {
    core.pointers().let_go(pointers, stream);
  } catch (...) {
    failure = std::current_exception();
  }
  {
    const nb::gil_scoped_release unlocked;
    core.residency().give(blocks_of(core, ranges), stream, held_by_thread);
  }
  if (failure) std::rethrow_exception(failure);
}

void written(Core& core, const Ranges& ranges) {
  Pointers::written(pointers_of(core, ranges));
  const Ranges others = without_pointers(core, ranges);
  const nb::gil_scoped_release unlocked;
  core.residency().written(blocks_of(core, others));
}

}  // namespace vramx::bind
