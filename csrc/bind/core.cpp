#include "core/core.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "abi/vramx.h"
#include "base/error.hpp"
#include "bind/bind.hpp"
#include "calls/leases.hpp"
#include "core/current.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

using namespace vramx::calls;

namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

std::optional<Type> type_named(const std::string& name) {
  if (name == "bf16") return Type::bf16;
  if (name == "fp16") return Type::fp16;
  if (name == "fp32") return Type::fp32;
  return std::nullopt;
}

/// Memory as Python holds it: giving it back may wait for a lock that another thread holds while it
/// waits for the interpreter's.
struct Held {
  explicit Held(std::shared_ptr<Memory> of) : memory(std::move(of)) {}
  ~Held() {
    // A storage that points there goes with it.
    if (memory.use_count() == 1) memory->core()->pointers().forget(memory->range());
    const nb::gil_scoped_release unlocked;
    memory.reset();
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  std::shared_ptr<Memory> memory;
};

using Copies = std::vector<std::tuple<Address, Address, Bytes>>;

std::vector<Copy> copies_of(const Copies& given) {
  std::vector<Copy> copies;
  copies.reserve(given.size());
  for (const auto& [device, program, size] : given) copies.push_back({device, program, size});
  return copies;
}

/// The interface of numpy and torch to foreign memory: a flat run of bytes that can be written.
nb::typed<nb::dict, nb::str, nb::any> array_interface(const Held& held) {
  const Range range = held.memory->range();
  nb::dict interface;
  interface["shape"] = nb::make_tuple(range.size);
  interface["typestr"] = "|u1";
  interface["data"] = nb::make_tuple(range.start, false);
  interface["strides"] = nb::none();
  interface["version"] = 3;
  return nb::typed<nb::dict, nb::str, nb::any>(interface);
}

int dlpack_type(const Held& held) {
  return held.memory->card().computes_on_host ? nb::device::cpu::value : nb::device::cuda::value;
}

/// Unlike the array interfaces, DLPack says which card it is. Asked about mapped memory that lies
/// on the host, the driver names the host.
nb::object dlpack(nb::handle self, const nb::kwargs& asked) {
  const auto& held = nb::cast<const Held&>(self);
  if (asked.contains("copy") && nb::handle(asked["copy"]).is(nb::bool_(true))) {
    throw nb::buffer_error("a session's memory is shared by DLPack, never copied");
  }
  const nb::tuple here = nb::make_tuple(dlpack_type(held), held.memory->card().ordinal);
  if (asked.contains("dl_device") && !nb::handle(asked["dl_device"]).is_none() &&
      !here.equal(asked["dl_device"])) {
    throw nb::buffer_error("a session's memory is shared by DLPack where it lies, nowhere else");
  }
  const Range range = held.memory->range();
  const nb::ndarray<std::uint8_t, nb::ndim<1>> bytes(range.data(), {range.size}, self, {},
                                                     nb::dtype<std::uint8_t>(), dlpack_type(held),
                                                     held.memory->card().ordinal);
  return nb::cast(bytes);
}

/// As the interface above, of another shape and type: for those who cannot view bytes otherwise.
nb::object tensor(nb::handle self, const std::vector<std::size_t>& shape, std::uint8_t code,
                  std::uint8_t bits) {
  const auto& held = nb::cast<const Held&>(self);
  const Range range = held.memory->range();
  Bytes size = bits / 8;
  for (const std::size_t side : shape) size *= side;
  if (size != range.size) {
    throw BadConfig("a tensor of " + std::to_string(size) + " bytes cannot view a memory of " +
                    std::to_string(range.size));
  }
  const nb::ndarray<> array(range.data(), shape.size(), shape.data(), self, nullptr,
                            {.code = code, .bits = bits, .lanes = 1}, dlpack_type(held),
                            held.memory->card().ordinal);
  return nb::cast(array);
}

void bind_memory(nb::module_& module) {
  nb::class_<Held>(module, "Memory", nb::is_weak_referenceable())
      .def_prop_ro("address", [](const Held& held) { return held.memory->range().start; })
      .def_prop_ro("nbytes", [](const Held& held) { return held.memory->range().size; })
      .def("__dlpack__", &dlpack, nb::sig("def __dlpack__(self, **kwargs: Any) -> Any"))
      .def("tensor", &tensor, "shape"_a, "code"_a, "bits"_a,
           nb::sig("def tensor(self, shape: Sequence[int], code: int, bits: int) -> Any"),
           "A DLPack capsule of all of it, by the type's code and bits.")
      .def("__dlpack_device__",
           [](const Held& held) {
             return std::pair(dlpack_type(held), held.memory->card().ordinal);
           })
      .def_prop_ro("__array_interface__", &array_interface)
      .def_prop_ro("__cuda_array_interface__", &array_interface);
}

}  // namespace

void core(nb::module_& module) {
  bind_memory(module);

  nb::class_<Core>(module, "Core")
      .def(nb::new_([](std::shared_ptr<Device> device, Bytes budget, Bytes block, nb::object policy,
                       bool threaded, Bytes host_limit, bool profiled) {
             const MakeStrategy make = policy_from(std::move(policy));
             const nb::gil_scoped_release unlocked;
             return std::make_shared<Core>(std::move(device),
                                           Settings{.budget = budget,
                                                    .block = block,
                                                    .host_limit = host_limit,
                                                    .threaded = threaded,
                                                    .profiled = profiled},
                                           make);
           }),
           "device"_a, "budget"_a, "block"_a, "policy"_a, "threaded"_a, "host_limit"_a,
           "profiled"_a = false)
      .def(
          "reserve",
          [](Core& core, const std::vector<Bytes>& sizes, Purpose purpose) {
            std::vector<std::shared_ptr<Memory>> memories;
            {
              const nb::gil_scoped_release unlocked;
              memories = core.reserve(sizes, purpose);
            }
            nb::list held;
            for (auto& memory : memories) {
              held.append(nb::cast(new Held(std::move(memory)), nb::rv_policy::take_ownership));
            }
            return held;
          },
          "sizes"_a, "purpose"_a,
          nb::sig("def reserve(self, sizes: list[int], purpose: Purpose) -> list[Memory]"))
      .def(
          "empty",
          [](Core& core, Bytes size, Stream stream) {
            const nb::gil_scoped_release unlocked;
            return new Held(core.empty(size, stream, python_signals()));
          },
          "size"_a, "stream"_a, nb::rv_policy::take_ownership)
      .def(
          "store", [](Core& core, const Copies& copies) { core.store(copies_of(copies)); },
          "copies"_a, Unlocked(), "Copies (device, program, size) into the host copies.")
      .def(
          "load", [](Core& core, const Copies& copies) { core.load(copies_of(copies)); },
          "copies"_a, Unlocked(), "Copies (device, program, size) out of the host copies.")
      .def(
          "define",
          [](Core& core, const Ranges& ranges, std::string name) {
            return core.residency().define(blocks_of(core, ranges), std::move(name));
          },
          "ranges"_a, "name"_a = "", Unlocked(), "`name` is what timelines call the group.")
      .def(
          "undefine", [](Core& core, GroupId group) { core.residency().undefine(group); },
          "group"_a, Unlocked())
      .def(
          "redefine",
          [](Core& core, GroupId group, const Ranges& ranges) {
            core.residency().redefine(group, blocks_of(core, ranges));
          },
          "group"_a, "ranges"_a, Unlocked(), "Gives a group other memory.")
      .def(
          "guess",
          [](Core& core, const std::vector<GroupId>& order) { core.residency().guess(order); },
          "order"_a, Unlocked())
      .def("acquire", &acquire, "group"_a, "stream"_a)
      .def("release", &release, "group"_a, "stream"_a)
      .def("take", &take, "ranges"_a, "stream"_a, "held_by_thread"_a)
      .def("give", &give, "ranges"_a, "stream"_a, "held_by_thread"_a)
      .def(
          "owned",
          [](Core& core, const Ranges& ranges) {
            Ranges owned;
            for (const auto& [start, size] : ranges) {
              if (core.residency().owns({start, size})) owned.emplace_back(start, size);
            }
            return owned;
          },
          "ranges"_a, Unlocked(), "Those of the ranges that lie in this core's memory.")
      .def(
          "leased",
          [](Core& core, const Ranges& ranges) {
            return core.residency().all(blocks_of(core, ranges), &Block::leases);
          },
          "ranges"_a, Unlocked())
      .def(
          "on_card",
          [](Core& core, const Ranges& ranges) {
            return core.residency().on_card(blocks_of(core, ranges));
          },
          "ranges"_a, Unlocked())
      .def(
          "confined",
          [](Core& core, const Ranges& ranges) {
            return core.residency().all(blocks_of(core, ranges), &Block::confined);
          },
          "ranges"_a, Unlocked(), "Whether none of the ranges can leave the card.")
      .def(
          "prefetch",
          [](Core& core, const Ranges& ranges) {
            core.residency().prefetch(blocks_of(core, ranges));
          },
          "ranges"_a, Unlocked())
      .def(
          "evict",
          [](Core& core, const Ranges& ranges) {
            core.residency().evict(blocks_of(core, ranges), python_signals());
          },
          "ranges"_a, Unlocked())
      .def(
          "advise",
          [](Core& core, const Ranges& ranges, Advice advice) {
            core.residency().advise(blocks_of(core, ranges), advice, python_signals());
          },
          "ranges"_a, "advice"_a, Unlocked())
      .def("written", &written, "ranges"_a)
      .def(
          "pack",
          [](Core& core,
             const std::vector<std::tuple<Address, Bytes, std::string, std::string>>& weights) {
            std::vector<TypedRange> typed;
            for (const auto& [address, size, type, name] : weights) {
              typed.push_back({.offset = address, .size = size, .type = type_named(type)});
              core.residency().call({address, size}, name);
            }
            return core.residency().pack(std::move(typed), python_signals());
          },
          "weights"_a, Unlocked(),
          "Makes packed copies of weights: addresses, bytes, bf16, fp16, fp32 or nothing, names.\n"
          "Returns False where the card has no room for it now.")
      .def(
          "point",
          [](Core& core, Address storage, Address address, Bytes size) {
            return core.pointers().add(storage, {address, size});
          },
          "storage"_a, "address"_a, "size"_a,
          "Lets a storage point at the host copy but under a lease; False where that cannot be.")
      .def(
          "host_address",
          [](Core& core, Address address) {
            return core.device()->memory(Purpose::weights).host_address(address);
          },
          "address"_a, "Where the card uses the host copy of weights in place, or 0.")
      .def(
          "unpoint",
          [](Core& core, Address address, Bytes size) { core.pointers().forget({address, size}); },
          "address"_a, "size"_a, "Leaves the storages in a range pointing at the host copy.")
      .def(
          "expose",
          [](Core& core, Address address, Bytes size, bool exposed) {
            calls::expose(core, {address, size}, exposed);
          },
          "address"_a, "size"_a, "exposed"_a,
          "Says whether the program may write to the host copies in a range unseen.")
      .def(
          "exposed",
          [](Core& core, Address address) {
            return std::ranges::any_of(core.pointers().of({address, 1}),
                                       [](const auto& pointer) { return pointer->exposed; });
          },
          "address"_a, "Whether the program may write to the host copy at an address unseen.")
      .def(
          "set_budget",
          [](Core& core, Bytes budget) {
            return core.residency().set_budget(budget, python_signals());
          },
          "budget"_a, Unlocked())
      .def(
          "stats", [](Core& core) { return core.residency().stats(); }, Unlocked())
      .def(
          "usage", [](Core& core, GroupId group) { return core.residency().usage(group); },
          "group"_a, Unlocked())
      .def(
          "ungrouped", [](Core& core) { return core.residency().ungrouped(); }, Unlocked(),
          "What was counted of memory that never was part of a group.")
      .def(
          "plan", [](Core& core) { return core.residency().plan(); }, Unlocked())
      .def(
          "begin_trace",
          [](Core& core, Stream stream, std::size_t most_events) {
            core.residency().begin_trace(stream, most_events);
          },
          "stream"_a, "most_events"_a, Unlocked())
      .def(
          "end_trace", [](Core& core) { return core.residency().end_trace(python_signals()); },
          Unlocked())
      .def_prop_ro(
          "block", [](const Core& core) { return core.block(); }, "Bytes of a block.")
      .def_prop_ro("scratch_on_host", [](Core& core) { return core.residency().scratch_on_host(); })
      .def_prop_ro(
          "scratch_bytes", [](Core& core) { return core.scratch().live_bytes(); },
          "What frameworks hold, their caches included.")
      .def(
          "abandon",
          [](Core& core, const std::vector<Address>& allocations) {
            for (const Address each : allocations) core.scratch().abandon(each);
          },
          "allocations"_a, Unlocked(),
          "Nobody uses these of the frameworks' allocations again; they are freed later.")
      .def(
          "watch_scratch", [](Core& core, Bytes held) { core.scratch().watch_for(held); }, "held"_a,
          "Leased calls tell when frameworks hold so much.")
      .def(
          "trim", [](Core& core) { core.scratch().trim(); }, Unlocked())
      .def(
          "enter", [](Core& core) { vramx::enter(core.shared_from_this()); },
          "This thread's framework allocations are served by this core.")
      .def("leave", [](Core& core) { vramx::leave(core); })
      .def("close", [](Core& core) {
        {
          const nb::gil_scoped_release unlocked;
          core.close(python_signals());
        }
        core.pointers().settle();
      });

  module.def(
      "set_process_core", [](std::shared_ptr<Core> core) { set_process_core(std::move(core)); },
      nb::arg("core").none(), "Serves threads that entered no session.");
  module.def("card_address", &card_address, "address"_a,
             "The session's own address of weights whose storage points at their host copy.");
  module.def(
      "last_failure", [] { return last_failure(); },
      "Why this thread's last framework allocation failed, or an empty text.");
  module.def(
      "record_stream_address",
      [] { return reinterpret_cast<std::uintptr_t>(&vramx_record_stream); },  // NOLINT
      "The address of the C symbol that torch calls when another stream uses an allocation.");
  module.def(
      "ort_addresses",
      [] {
        return std::tuple(reinterpret_cast<std::uintptr_t>(&vramx_ort_alloc),         // NOLINT
                          reinterpret_cast<std::uintptr_t>(&vramx_ort_free),          // NOLINT
                          reinterpret_cast<std::uintptr_t>(&vramx_ort_empty_cache));  // NOLINT
      },
      "The addresses of the C symbols that ONNX Runtime calls: alloc, free, empty cache.");
}

}  // namespace vramx::bind
