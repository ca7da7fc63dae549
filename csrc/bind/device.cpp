#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <cstring>
#include <utility>

#include "bind/bind.hpp"
#include "device/cuda_device.hpp"
#include "device/managed.hpp"
#include "device/mapped.hpp"
#include "device/packing.hpp"
#include "device/simulated.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

Store& weights(Device& device) { return device.memory(Purpose::weights); }

/// What a kernel found.
struct Check {
  std::atomic<bool> done = false;
  std::atomic<bool> wrong = false;
};

}  // namespace

void device(nb::module_& module) {
  nb::enum_<Purpose>(module, "Purpose")
      .value("WEIGHTS", Purpose::weights)
      .value("SCRATCH", Purpose::scratch);
  nb::enum_<Operation>(module, "Operation")
      .value("RESERVE", Operation::reserve)
      .value("FETCH", Operation::fetch)
      .value("EVICT", Operation::evict)
      .value("MAP_HOST", Operation::map_host)
      .value("PACK", Operation::pack);

  nb::class_<Device>(module, "Device")
      .def_prop_ro("name", [](const Device& d) { return d.facts().name; })
      .def_prop_ro("kind", [](const Device& d) { return d.facts().kind; })
      .def_prop_ro("ordinal", [](const Device& d) { return d.facts().ordinal; })
      .def_prop_ro("uuid", [](const Device& d) { return d.facts().uuid; })
      .def_prop_ro("capacity", [](const Device& d) { return d.facts().capacity; })
      .def_prop_ro("granule", [](Device& d) { return weights(d).traits().granule; })
      .def_prop_ro("link_up", [](Device& d) { return weights(d).link().rates().up; })
      .def_prop_ro("link_down", [](Device& d) { return weights(d).link().rates().down; })
      .def_prop_ro(
          "unpack_rate",
          [](Device& d) {
            Packing* const packing = weights(d).packing();
            return packing != nullptr ? packing->rate() : 0;
          },
          "Raw bytes a second that packed copies are unpacked to; 0 where it makes none.")
      .def_prop_ro("reads_over_link", [](Device& d) { return weights(d).traits().reads_over_link; })
      .def_prop_ro(
          "packs", [](Device& d) { return weights(d).packing() != nullptr; },
          "Whether it makes packed copies of weights.")
      .def_prop_ro(
          "keeps_raw", [](Device& d) { return weights(d).traits().keeps_raw; },
          "Whether raw host copies of weights stay beside packed ones.")
      .def_prop_ro(
          "given_back_bytes", [](Device& d) { return weights(d).given_back_bytes(); },
          "Raw bytes of weights that the host has in packed copies alone.")
      .def_prop_ro("host_addresses", [](Device& d) { return weights(d).traits().host_addresses; })
      .def_prop_ro(
          "managed_access",
          [](Device& d) { return !d.memory(Purpose::scratch).confines(Purpose::scratch); },
          "Whether what the program allocates may lie beyond the card.")
      .def_prop_ro("keeps_what_leaves",
                   [](Device& d) { return weights(d).traits().keeps_what_leaves; })
      .def_prop_ro(
          "pageable_bytes", [](Device& d) { return weights(d).pageable_bytes(); },
          "Host memory of weights that could not be pinned.")
      .def_prop_ro(
          "holds_up_launches",
          [](Device& d) { return d.memory(Purpose::scratch).holds_up_launches(); },
          "Why launches wait for moves that need not; empty where they do not.")
      .def_prop_ro(
          "computes_on_host", [](const Device& d) { return d.facts().computes_on_host; },
          "Whether its memory is the host's, and the processor computes on it.")
      .def_prop_ro(
          "virtual_clock", [](const Device& d) { return d.facts().virtual_clock; },
          "Whether time passes by what is asked of the card alone.")
      .def_prop_ro(
          "slow_moves", [](const Device& d) { return d.facts().slow_moves; },
          "Whether asking for a move takes host time.")
      .def_prop_ro(
          "stalled", [](Device& d) { return d.streams().stalled(); },
          "On a virtual clock: the seconds that streams have waited.")
      .def_prop_ro("free_bytes", &Device::free_bytes)
      .def_prop_ro("card_bytes", [](Device& d) {
        const Bytes held = weights(d).card_bytes();
        return &weights(d) == &d.memory(Purpose::scratch)
                   ? held
                   : held + d.memory(Purpose::scratch).card_bytes();
      });

  nb::class_<CudaDevice, Device>(module, "CudaDevice")
      .def(
          "set_rates",
          [](CudaDevice& d, Purpose purpose, double up, double down) {
            d.memory(purpose).set_rates({.up = up, .down = down});
          },
          "memory"_a, "up"_a, "down"_a,
          "Tells what moves of weights, or scratch, reach over the link, bytes a second.");
  module.def("open_managed", &open_managed, "driver"_a, "ordinal"_a, "deny_managed"_a = false,
             nb::call_guard<nb::gil_scoped_release>(), "A card with all in managed memory.");
  module.def(
      "open_mapped",
      [](const std::string& driver, int ordinal, Bytes unit, bool accept_unpinned,
         bool deny_managed, bool checked, bool keeps_raw) {
        return open_mapped(driver, ordinal, unit,
                           {.unpinned = accept_unpinned ? Unpinned::accept : Unpinned::refuse,
                            .checked = checked,
                            .keeps_raw = keeps_raw},
                           deny_managed);
      },
      "driver"_a, "ordinal"_a, "unit"_a, "accept_unpinned"_a = false, "deny_managed"_a = false,
      "checked"_a = false, "keeps_raw"_a = true, nb::call_guard<nb::gil_scoped_release>(),
      "Weights in mapped memory, moved a unit at once; scratch in managed memory, or on the card.");
  module.def("set_managed_limit", &set_managed_limit, "limit"_a,
             "Caps the managed bytes of this process; returns the previous cap.");
  module.def("managed_bytes", &managed_bytes);
  module.def("pinned_bytes", &pinned_bytes, "The host memory that mapped devices have pinned.");

  nb::class_<Check>(module, "Check", "What a kernel that looked at bytes found.")
      .def_prop_ro("done", [](const Check& check) { return check.done.load(); })
      .def_prop_ro("wrong", [](const Check& check) { return check.wrong.load(); });
  nb::class_<SimulatedDevice, Device>(module, "SimulatedDevice")
      .def(
          "__init__",
          [](SimulatedDevice* self, Bytes capacity, double link_up, double link_down,
             double latency, unsigned lanes, Bytes granule, Bytes host_memory, bool reads_over_link,
             bool check_drops, bool host_addresses, bool managed_access, double unpack_rate,
             bool keeps_raw) {
            new (self) SimulatedDevice({.capacity = capacity,
                                        .link = {.up = link_up, .down = link_down},
                                        .latency = latency,
                                        .lanes = lanes,
                                        .granule = granule,
                                        .host_memory = host_memory,
                                        .reads_over_link = reads_over_link,
                                        .host_addresses = host_addresses,
                                        .managed_access = managed_access,
                                        .check_drops = check_drops,
                                        .unpack_rate = unpack_rate,
                                        .keeps_raw = keeps_raw});
          },
          "capacity"_a, "link_up"_a, "link_down"_a, "latency"_a, "lanes"_a, "granule"_a,
          "host_memory"_a, "reads_over_link"_a, "check_drops"_a, "host_addresses"_a = true,
          "managed_access"_a = true, "unpack_rate"_a = 0.0, "keeps_raw"_a = true)
      .def(
          "compute",
          [](SimulatedDevice& d, double seconds, Stream stream) { d.compute(stream, seconds); },
          "seconds"_a, "stream"_a = 0)
      .def(
          "launch_fill",
          [](SimulatedDevice& d, Address to, const nb::bytes& content, Stream stream) {
            const Range range{to, content.size()};
            d.launch(stream, range, [range, bytes = std::string(content.c_str(), range.size)] {
              std::memcpy(range.data(), bytes.data(), range.size);
            });
          },
          "to"_a, "content"_a, "stream"_a = 0, "A kernel that writes these bytes.")
      .def(
          "launch_check",
          [](SimulatedDevice& d, Address at, const nb::bytes& content, Stream stream) {
            const Range range{at, content.size()};
            auto check = std::make_shared<Check>();
            d.launch(stream, range,
                     [range, check, bytes = std::string(content.c_str(), range.size)] {
                       check->wrong = std::memcmp(range.data(), bytes.data(), range.size) != 0;
                       check->done = true;
                     });
            return check;
          },
          "at"_a, "content"_a, "stream"_a = 0, "A kernel that compares what it finds with these.")
      .def(
          "synchronize", [](SimulatedDevice& d, Stream stream) { d.synchronize(stream); },
          "stream"_a, "Carries out what a stream was given.")
      .def(
          "synchronize_all", [](SimulatedDevice& d) { d.synchronize(); },
          "Carries out what the card was given.")
      .def(
          "holds",
          [](const SimulatedDevice& d, Address address, Bytes size) {
            return d.holds({address, size});
          },
          "address"_a, "size"_a, "Whether bytes are at the card's addresses.")
      .def("fail", &SimulatedDevice::fail, "operation"_a, "nth"_a)
      .def("damage", &SimulatedDevice::damage, "address"_a, "bit"_a,
           "A bit flips in the packed copy of what is at an address.")
      .def("hold", &SimulatedDevice::hold)
      .def("let_go", &SimulatedDevice::let_go)
      .def_prop_ro("now", &SimulatedDevice::now)
      .def_prop_ro("peak_on_card", &SimulatedDevice::peak_on_card)
      .def_prop_ro("on_card", &SimulatedDevice::on_card)
      .def_prop_ro("moved_in", &SimulatedDevice::moved_in)
      .def_prop_ro("moved_out", &SimulatedDevice::moved_out)
      .def_prop_ro("refreshed", &SimulatedDevice::refreshed)
      .def_prop_ro("saved", &SimulatedDevice::saved);
  nb::enum_<Moment>(module, "Moment")
      .value("EARLIEST", Moment::earliest)
      .value("LATEST", Moment::latest)
      .value("RANDOM", Moment::random);
  module.def(
      "set_moments",
      [](Moment when, std::uint64_t seed) {
        const Moments previous = set_moments({.when = when, .seed = seed});
        return std::pair(previous.when, previous.seed);
      },
      "when"_a, "seed"_a,
      "When simulated cards made from now on carry out work; returns the previous ones.");
  module.attr("POISON") = static_cast<int>(poison);
}

}  // namespace vramx::bind
