#include <nanobind/stl/vector.h>

#include <cstdint>
#include <utility>

#include "bind/bind.hpp"
#include "bind/collected.hpp"
#include "calls/contents.hpp"
#include "calls/own_call.hpp"
#include "calls/present_stream.hpp"
#include "calls/tensor_layout.hpp"
#include "calls/versions.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

using namespace vramx::calls;

void tensors(nb::module_& module) {
  module.def("find_layout", &find_layout, "tensor"_a, "alias"_a, "other"_a,
             "Finds where tensors keep what is else asked for; returns whether it did.");
  module.def("data_address", &data_of, "tensor"_a,
             "Where a tensor's storage begins; 0 where it has none.");

  nb::class_<Versions>(module, "Versions", nb::type_slots(collected<Versions>),
                       "How often tensors were changed in place, as of the last look.")
      .def(nb::init<std::vector<nb::object>>(), "tensors"_a)
      .def("changed", &Versions::changed, "Whether some were since the last look; this is one.");

  nb::class_<Contents>(
      module, "Contents", nb::type_slots(collected<Contents>),
      "What dictionaries held, and which storages tensors had, when this was made.")
      .def(nb::init<const std::vector<Named>&, std::vector<nb::object>>(), "dicts"_a, "tensors"_a)
      .def("changed", &Contents::changed, "Whether any of it is otherwise now.");

  nb::class_<HookPlaces>(module, "HookPlaces",
                         "Where the framework looks for hooks before it calls a module's forward.")
      .def(nb::init<HookPlaces::Names, HookPlaces::Names, nb::typed<nb::dict, nb::str, nb::object>,
                    nb::object>(),
           "of_module"_a, "of_all"_a, "among"_a, "traced"_a)
      .def("none", &HookPlaces::none, "module"_a,
           "Whether a call of the module goes to its forward and does nothing else.");

  nb::class_<PresentStream>(module, "PresentStream",
                            "The stream that the calling thread gives a card's work to.")
      .def(
          "__init__",
          [](PresentStream* made, std::int32_t card, nb::object ask, std::uintptr_t function) {
            auto* const called = reinterpret_cast<PresentStream::Function>(function);  // NOLINT
            new (made) PresentStream(card, std::move(ask), called);
          },
          "card"_a, "ask"_a, "function"_a = 0,
          "Asks the C function at an address, or calls `ask` where that is 0.")
      .def("__call__", &PresentStream::operator(), "Returns its handle.");
}

}  // namespace vramx::bind
