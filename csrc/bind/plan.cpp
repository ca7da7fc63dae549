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

Trace trace_of(const std::vector<Bytes>& blocks, const Steps& steps) {
  Trace trace;
  for (const Bytes size : blocks) trace.blocks.push_back({.size = size});
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
             Bytes in_flight) {
            new (self) PassLimits{.used = used,
                                  .budget = budget,
                                  .link = link,
                                  .compute = compute,
                                  .in_flight = in_flight};
          },
          "used"_a, "budget"_a, "link"_a, "compute"_a, "in_flight"_a)
      .def("fluid", &PassLimits::fluid, "Seconds that nothing moving uncompressed bytes can beat.")
      .def("plan", &PassLimits::plan, "Seconds that an evenly spread plan reaches.")
      .def("lru", &PassLimits::lru, "Seconds that LRU takes on a cycle.");

  nb::class_<Prediction>(module, "Prediction")
      .def_ro("seconds", &Prediction::seconds)
      .def_ro("moved_in", &Prediction::moved_in)
      .def_ro("moved_out", &Prediction::moved_out);

  module.def(
      "plan_pass",
      [](const std::vector<Bytes>& blocks, const Steps& steps, Bytes budget, double up,
         double down) {
        return make_plan(trace_of(blocks, steps), budget, {.up = up, .down = down}).predicted;
      },
      "blocks"_a, "steps"_a, "budget"_a, "up"_a, "down"_a, nb::call_guard<nb::gil_scoped_release>(),
      "Plans a cyclic pass, whose steps are (places of blocks, seconds), and predicts it.");

  module.def(
      "least_seconds",
      [](const std::vector<Bytes>& blocks, const Steps& steps, Bytes budget, double up) {
        return least_seconds(trace_of(blocks, steps), budget, {.up = up});
      },
      "blocks"_a, "steps"_a, "budget"_a, "up"_a, nb::call_guard<nb::gil_scoped_release>(),
      "Seconds that no way of moving the blocks of such a pass can beat.");
}

}  // namespace vramx::bind
