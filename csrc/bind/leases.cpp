#include "bind/leases.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>

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

void acquire(Core& core, GroupId group, Stream stream) {
  static const Poll poll = python_signals();
  {
    const nb::gil_scoped_release unlocked;
    core.residency().acquire(group, stream, poll);
  }
  if (PyErr_CheckSignals() == 0) return;
  const nb::python_error raised;
  release(core, group, stream);
  throw raised;
}

void release(Core& core, GroupId group, Stream stream) {
  const nb::gil_scoped_release unlocked;
  core.residency().release(group, stream);
}

void take(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  {
    const nb::gil_scoped_release unlocked;
    core.residency().take(blocks_of(core, ranges), stream, held_by_thread, python_signals());
  }
  if (PyErr_CheckSignals() == 0) return;
  const nb::python_error raised;
  give(core, ranges, stream, held_by_thread);
  throw raised;
}

void give(Core& core, const Ranges& ranges, Stream stream, bool held_by_thread) {
  const nb::gil_scoped_release unlocked;
  core.residency().give(blocks_of(core, ranges), stream, held_by_thread);
}

}  // namespace vramx::bind
