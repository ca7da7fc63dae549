#include "plan/plan.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.hpp"
#include "plan/bound.hpp"
#include "plan/limits.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

using Steps = std::vector<std::pair<std::vector<std::uint32_t>, double>>;

/// Of blocks, each of so many bytes, raw and packed.
using Blocks = std::vector<std::pair<Bytes, Bytes>>;

Trace trace_of(const Blocks& blocks, const Steps& steps) {
  Trace trace;
  for (const auto& [size, packed] : blocks) {
    trace.blocks.push_back({.size = size, .packed = packed, .packed_room = packed});
  }
  for (const auto& [used, seconds] : steps) {
    trace.steps.push_back({.blocks = used, .seconds = seconds});
  }
  return trace;
}

}  // namespace

void plan(nb::module_& module) {
  nb::class_<PassLimits>(module, "PassLimits")
      .def(
          "__init__",
          [](PassLimits* self, Bytes used, Bytes budget, double link, double compute,
             Bytes in_flight, Bytes packed, double unpack) {
            new (self) PassLimits{.used = used,
                                  .budget = budget,
                                  .link = link,
                                  .compute = compute,
                                  .in_flight = in_flight,
                                  .packed = packed,
                                  .unpack = unpack};
          },
          "used"_a, "budget"_a, "link"_a, "compute"_a, "in_flight"_a, "packed"_a = 0,
          "unpack"_a = 0.0)
      .def("fluid", &PassLimits::fluid, "Seconds that nothing moving uncompressed bytes can beat.")
      .def("plan", &PassLimits::plan, "Seconds that an evenly spread plan reaches.")
      .def("with_packed", &PassLimits::with_packed,
           "Seconds that an even plan reaches which keeps and streams packed copies.")
      .def("lru", &PassLimits::lru, "Seconds that LRU takes on a cycle.");

  nb::class_<Prediction>(module, "Prediction")
      .def_ro("seconds", &Prediction::seconds)
      .def_ro("moved_in", &Prediction::moved_in)
      .def_ro("raw_in", &Prediction::raw_in)
      .def_ro("unpacked", &Prediction::unpacked)
      .def_ro("moved_out", &Prediction::moved_out);

  module.def(
      "plan_pass",
      [](const Blocks& blocks, const Steps& steps, Bytes budget, double up, double down,
         double unpack) {
        return make_plan(trace_of(blocks, steps), budget,
                         {.up = up, .down = down, .unpack = unpack})
            .predicted;
      },
      "blocks"_a, "steps"_a, "budget"_a, "up"_a, "down"_a, "unpack"_a,
      nb::call_guard<nb::gil_scoped_release>(),
      "Predicts a planned pass of blocks (bytes, packed or 0) in steps (places, seconds).");

  module.def(
      "least_seconds",
      [](const Blocks& blocks, const Steps& steps, Bytes budget, double up, double unpack) {
        return least_seconds(trace_of(blocks, steps), budget, {.up = up, .unpack = unpack});
      },
      "blocks"_a, "steps"_a, "budget"_a, "up"_a, "unpack"_a,
      nb::call_guard<nb::gil_scoped_release>(),
      "Seconds that no way of moving the blocks of such a pass can beat.");
}

}  // namespace vramx::bind
