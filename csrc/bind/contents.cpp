#include "bind/contents.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>

#include "bind/bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  return nb::inst_ptr<Contents>(self)->each_object(
      [&](PyObject* object) { return object == nullptr ? 0 : visit(object, arg); });
}

int clear(PyObject* self) {
  nb::inst_ptr<Contents>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},        // NOLINT
                       {0, nullptr}};

}  // namespace

Contents::Contents(const std::vector<Named>& dicts, std::vector<nb::object> tensors) {
  dicts_.reserve(dicts.size());
  for (const Named& dict : dicts) {
    Dict& made = dicts_.emplace_back(Dict{.dict = dict});
    for (const auto& [key, value] : dict) {
      made.entries.emplace_back(nb::borrow(key), nb::borrow(value));
    }
  }
  storages_.reserve(tensors.size());
  for (nb::object& tensor : tensors) {
    const Word storage = storage_of(tensor);
    storages_.emplace_back(std::move(tensor), storage);
  }
}

bool Contents::differs(const Dict& dict) {
  const auto size = static_cast<std::size_t>(PyDict_GET_SIZE(dict.dict.ptr()));
  if (size != dict.entries.size()) return true;
  Py_ssize_t at = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  for (const auto& [known_key, known_value] : dict.entries) {
    if (PyDict_Next(dict.dict.ptr(), &at, &key, &value) == 0) return true;
    if (key != known_key.ptr() || value != known_value.ptr()) return true;
  }
  return false;
}

bool Contents::changed() const {
  return moved() || std::ranges::any_of(dicts_, &Contents::differs);
}

bool Contents::moved() const {
  return std::ranges::any_of(
      storages_, [](const auto& each) { return storage_of(each.first) != each.second; });
}

void Contents::clear() {
  dicts_.clear();
  storages_.clear();
}

void contents(nb::module_& module) {
  nb::class_<Contents>(
      module, "Contents", nb::type_slots(slots),
      "What dictionaries held, and which storages tensors had, when this was made.")
      .def(nb::init<const std::vector<Named>&, std::vector<nb::object>>(), "dicts"_a, "tensors"_a)
      .def("changed", &Contents::changed, "Whether any of it is otherwise now.");
}

}  // namespace vramx::bind
