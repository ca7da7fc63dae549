#include "bind/versions.hpp"

#include <nanobind/stl/vector.h>

#include <utility>

#include "bind/bind.hpp"
#include "bind/tensor_layout.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  for (const nb::object& each : nb::inst_ptr<Versions>(self)->tensors()) Py_VISIT(each.ptr());
  return 0;
}

int clear(PyObject* self) {
  nb::inst_ptr<Versions>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},        // NOLINT
                       {0, nullptr}};

}  // namespace

Versions::Versions(std::vector<nb::object> tensors)
    : tensors_(std::move(tensors)), total_(total()) {}

bool Versions::changed() {
  const std::int64_t now = total();
  return std::exchange(total_, now) != now;
}

std::int64_t Versions::total() const {
  std::int64_t total = 0;
  for (const nb::object& tensor : tensors_) total += version_of(tensor);
  return total;
}

void versions(nb::module_& module) {
  nb::class_<Versions>(module, "Versions", nb::type_slots(slots),
                       "How often tensors were changed in place, as of the last look.")
      .def(nb::init<std::vector<nb::object>>(), "tensors"_a)
      .def("changed", &Versions::changed, "Whether some were since the last look; this is one.");
}

}  // namespace vramx::bind
