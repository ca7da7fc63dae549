#include "residency/residency.hpp"

#include "bind/bind.hpp"

namespace nb = nanobind;

namespace vramx::bind {

namespace {

template <std::size_t size>
nb::typed<nb::dict, nb::str, nb::int_> by_name(const std::array<const char*, size>& names,
                                               const std::array<std::uint64_t, size>& counts) {
  nb::dict named;
  for (std::size_t i = 0; i < size; ++i) named[names[i]] = counts[i];
  return nb::typed<nb::dict, nb::str, nb::int_>(named);
}

}  // namespace

void residency(nb::module_& module) {
  nb::enum_<Advice>(module, "Advice")
      .value("READ_MOSTLY", Advice::read_mostly)
      .value("UNSET_READ_MOSTLY", Advice::unset_read_mostly)
      .value("PREFERRED_DEVICE", Advice::preferred_device)
      .value("PREFERRED_HOST", Advice::preferred_host)
      .value("UNSET_PREFERRED", Advice::unset_preferred)
      .value("ACCESSED_BY", Advice::accessed_by)
      .value("UNSET_ACCESSED_BY", Advice::unset_accessed_by);

  nb::class_<Counts>(module, "Counts")
      .def_prop_ro("fetched",
                   [](const Counts& counts) { return by_name(fetch_causes, counts.fetched); })
      .def_prop_ro("evicted",
                   [](const Counts& counts) { return by_name(evict_causes, counts.evicted); })
      .def_ro("hits", &Counts::hits)
      .def_ro("misses", &Counts::misses)
      .def_ro("moved_in", &Counts::moved_in)
      .def_ro("crossed_in", &Counts::crossed_in)
      .def_ro("moved_out", &Counts::moved_out)
      .def_ro("dropped", &Counts::dropped)
      .def_ro("discarded", &Counts::discarded)
      .def_ro("over_link", &Counts::over_link);

  nb::class_<Stats, Counts>(module, "Stats")
      .def_ro("budget", &Stats::budget)
      .def_ro("managed", &Stats::managed)
      .def_ro("resident", &Stats::resident)
      .def_ro("leased", &Stats::leased)
      .def_ro("peak_resident", &Stats::peak_resident)
      .def_ro("packed_on_host", &Stats::packed_on_host)
      .def_ro("packed_on_card", &Stats::packed_on_card)
      .def_prop_ro("evictions", &Stats::evictions)
      .def_ro("failed_moves", &Stats::failed_moves)
      .def_ro("stall_seconds", &Stats::stall_seconds);
}

}  // namespace vramx::bind
