#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>

#include "bind/bind.hpp"

namespace nb = nanobind;

namespace vramx::bind {

namespace {

nb::object known(double seconds) {
  return std::isnan(seconds) ? nb::object(nb::none()) : nb::object(nb::float_(seconds));
}

template <double Event::* time>
void bind_time(nb::class_<Event>& event, const char* name, const char* signature) {
  event.def_prop_ro(name, [](const Event& e) { return known(e.*time); }, nb::sig(signature));
}

void bind_usage(nb::module_& module) {
  nb::class_<BlockUsage>(module, "BlockUsage")
      .def_prop_ro("address", [](const BlockUsage& block) { return block.range.start; })
      .def_prop_ro("nbytes", [](const BlockUsage& block) { return block.range.size; })
      .def_ro("on_card", &BlockUsage::on_card)
      .def_ro("packed", &BlockUsage::packed)
      .def_ro("packed_on_card", &BlockUsage::packed_on_card)
      .def_ro("kept", &BlockUsage::kept)
      .def_ro("counts", &BlockUsage::counts);

  nb::class_<GroupUsage>(module, "GroupUsage")
      .def_ro("uses", &GroupUsage::uses)
      .def_ro("stall_seconds", &GroupUsage::stall_seconds)
      .def_ro("blocks", &GroupUsage::blocks);

  nb::class_<PlanUsage>(module, "PlanUsage")
      .def_ro("passes", &PlanUsage::passes)
      .def_ro("uses", &PlanUsage::uses)
      .def_ro("used", &PlanUsage::used)
      .def_ro("budget", &PlanUsage::budget)
      .def_ro("kept", &PlanUsage::kept)
      .def_ro("kept_packed", &PlanUsage::kept_packed)
      .def_ro("packed_copies", &PlanUsage::packed_copies)
      .def_ro("ahead", &PlanUsage::ahead)
      .def_ro("compute_seconds", &PlanUsage::compute_seconds)
      .def_prop_ro("seconds", [](const PlanUsage& plan) { return plan.predicted.seconds; })
      .def_prop_ro("moved_in", [](const PlanUsage& plan) { return plan.predicted.moved_in; })
      .def_prop_ro("raw_in", [](const PlanUsage& plan) { return plan.predicted.raw_in; })
      .def_prop_ro("unpacked", [](const PlanUsage& plan) { return plan.predicted.unpacked; })
      .def_prop_ro("moved_out", [](const PlanUsage& plan) { return plan.predicted.moved_out; })
      .def_ro("bound_seconds", &PlanUsage::bound_seconds);
}

}  // namespace

void seen(nb::module_& module) {
  bind_usage(module);

  nb::class_<Event> event(module, "Event");
  event
      .def_prop_ro("kind",
                   [](const Event& e) { return Event::names[static_cast<std::size_t>(e.kind)]; })
      .def_ro("cause", &Event::cause)
      .def_ro("how", &Event::how)
      .def_ro("lane", &Event::lane)
      .def_ro("request", &Event::request)
      .def_ro("block", &Event::block)
      .def_ro("group", &Event::group)
      .def_ro("stream", &Event::stream)
      .def_ro("thread", &Event::thread)
      .def_ro("bytes", &Event::bytes)
      .def_ro("bytes_out", &Event::bytes_out)
      .def_ro("crossed", &Event::crossed)
      .def_ro("seconds", &Event::seconds)
      .def_ro("text", &Event::text);
  bind_time<&Event::submitted>(event, "submitted", "def submitted(self) -> float | None");
  bind_time<&Event::began>(event, "began", "def began(self) -> float | None");
  bind_time<&Event::ended>(event, "ended", "def ended(self) -> float | None");

  nb::class_<TracedGroup>(module, "TracedGroup")
      .def_ro("serial", &TracedGroup::serial)
      .def_ro("name", &TracedGroup::name)
      .def_ro("blocks", &TracedGroup::blocks);

  nb::class_<PlacedBlock>(module, "PlacedBlock")
      .def_ro("serial", &PlacedBlock::serial)
      .def_prop_ro("address", [](const PlacedBlock& block) { return block.range.start; })
      .def_prop_ro("nbytes", [](const PlacedBlock& block) { return block.range.size; })
      .def_ro("purpose", &PlacedBlock::purpose);

  nb::class_<HeldPacked>(module, "HeldPacked")
      .def_ro("serial", &HeldPacked::serial)
      .def_ro("nbytes", &HeldPacked::bytes);

  nb::class_<Log>(module, "Log")
      .def(nb::init<>())
      .def_ro("events", &Log::events)
      .def_ro("lost", &Log::lost)
      .def_ro("groups", &Log::groups)
      .def_ro("blocks", &Log::blocks)
      .def_ro("resident", &Log::resident)
      .def_ro("held", &Log::held)
      .def_ro("budget", &Log::budget)
      .def_ro("reserved", &Log::reserved)
      .def_ro("seconds", &Log::seconds)
      .def_ro("virtual_clock", &Log::virtual_clock)
      .def_ro("lane_times", &Log::lane_times)
      .def_prop_ro("link_up", [](const Log& log) { return log.link.up; })
      .def_prop_ro("link_down", [](const Log& log) { return log.link.down; })
      .def_prop_ro("unpack", [](const Log& log) { return log.link.unpack; })
      .def_ro("lanes", &Log::lanes);
}

}  // namespace vramx::bind
