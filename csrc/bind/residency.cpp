#include "residency/residency.hpp"

#include "bind/bind.hpp"

namespace nb = nanobind;

namespace vramx::bind {

void residency(nb::module_& module) {
  nb::enum_<Advice>(module, "Advice")
      .value("READ_MOSTLY", Advice::read_mostly)
      .value("UNSET_READ_MOSTLY", Advice::unset_read_mostly)
      .value("PREFERRED_DEVICE", Advice::preferred_device)
      .value("PREFERRED_HOST", Advice::preferred_host)
      .value("UNSET_PREFERRED", Advice::unset_preferred)
      .value("ACCESSED_BY", Advice::accessed_by)
      .value("UNSET_ACCESSED_BY", Advice::unset_accessed_by);

  nb::class_<Stats>(module, "Stats")
      .def_ro("budget", &Stats::budget)
      .def_ro("managed", &Stats::managed)
      .def_ro("resident", &Stats::resident)
      .def_ro("leased", &Stats::leased)
      .def_ro("peak_resident", &Stats::peak_resident)
      .def_ro("moved_in", &Stats::moved_in)
      .def_ro("moved_out", &Stats::moved_out)
      .def_ro("dropped", &Stats::dropped)
      .def_ro("discarded", &Stats::discarded)
      .def_ro("over_link", &Stats::over_link)
      .def_ro("hits", &Stats::hits)
      .def_ro("misses", &Stats::misses)
      .def_ro("evictions", &Stats::evictions)
      .def_ro("failed_moves", &Stats::failed_moves)
      .def_ro("stall_seconds", &Stats::stall_seconds);
}

}  // namespace vramx::bind
