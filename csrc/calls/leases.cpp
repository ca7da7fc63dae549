#include "calls/leases.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>

namespace nb = nanobind;

namespace vramx::calls {

Poll python_signals() {
  return [] {
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  };
}

Blocks blocks_of(Core& core, const Ranges& ranges) {
  Blocks all;
  for (const auto& [start, size] : ranges) {
    for (const BlockId id : core.residency().blocks_of({start, size})) {
      if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
    }
  }
  return all;
}

Parts parts_of(Core& core, const Ranges& ranges) {
  Parts parts;
  auto& all = parts.pointers;
  for (const auto& [start, size] : ranges) {
    const Pointers::Some found = core.pointers().of({start, size});
    const auto in_place = [](const auto& pointer) { return pointer->in_place; };
    if (std::ranges::none_of(found, in_place)) parts.others.emplace_back(start, size);
    for (const auto& pointer : found) {
      if (std::find(all.begin(), all.end(), pointer) == all.end()) all.push_back(pointer);
    }
  }
  return parts;
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
  Pointers::Some away;
  if (!all_on_card) {
    const nb::gil_scoped_release unlocked;  // a policy written in Python may want it
    auto& residency = core.residency();
    for (const auto& pointer : pointers) {
      if (!residency.on_card(residency.blocks_of(pointer->card))) away.push_back(pointer);
    }
  }
  core.pointers().hold(pointers, away, stream);
}

namespace {

void leave(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  const nb::gil_scoped_release unlocked;
  core.residency().give(blocks_of(core, ranges), stream, held_by_thread);
}

}  // namespace

void take(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  bool on_card = false;
  {
    const nb::gil_scoped_release unlocked;
    on_card =
        core.residency().take(blocks_of(core, ranges), stream, held_by_thread, python_signals());
  }
  try {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    hold(core, parts_of(core, ranges).pointers, stream, on_card);
  } catch (...) {
    leave(core, ranges, stream, held_by_thread);
    throw;
  }
}

namespace {

// Packed copies are no more what the host copies hold, or soon will.
void host_copies_differ(Core& core, const Pointers::Some& pointers) {
  const nb::gil_scoped_release unlocked;
  for (const auto& pointer : pointers) {
    if (!pointer->in_place) continue;
    core.residency().written(core.residency().blocks_of(pointer->card), Place::host);
  }
}

}  // namespace

void storages_written(Core& core, const Pointers::Some& pointers) {
  Pointers::written(pointers);
  host_copies_differ(core, pointers);
}

void expose(Core& core, Range range, bool exposed) {
  const Pointers::Some pointers = core.pointers().of(range);
  Pointers::expose(pointers, exposed);
  if (exposed) host_copies_differ(core, pointers);
}

void give(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  // Whether the program wrote to them meanwhile, nobody says.
  const Pointers::Some pointers = parts_of(core, ranges).pointers;
  storages_written(core, pointers);
  try {
    core.pointers().let_go(pointers, stream);
  } catch (...) {
    leave(core, ranges, stream, held_by_thread);
    throw;
  }
  leave(core, ranges, stream, held_by_thread);
}

void written(Core& core, const Ranges& ranges) {
  const Parts parts = parts_of(core, ranges);
  storages_written(core, parts.pointers);
  const nb::gil_scoped_release unlocked;
  core.residency().written(blocks_of(core, parts.others), Place::card);
}

}  // namespace vramx::calls
