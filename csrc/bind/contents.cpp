#include "bind/contents.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>

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

Storages::Storages(std::vector<nb::object> tensors) : tensors_(std::move(tensors)) {
  storages_.reserve(tensors_.size());
  for (const nb::object& tensor : tensors_) storages_.push_back(storage_of(tensor));
}

bool Storages::changed() const {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (storage_of(tensors_[i]) != storages_[i]) return true;
  }
  return false;
}

void Storages::clear() {
  tensors_.clear();
  storages_.clear();
}

Contents::Contents(const std::vector<Named>& dicts, std::vector<nb::object> tensors)
    : storages_(std::move(tensors)) {
  dicts_.reserve(dicts.size());
  for (const Named& dict : dicts) {
    Dict& made = dicts_.emplace_back(Dict{.dict = dict});
    for (const auto& [key, value] : dict)
      made.entries.emplace_back(nb::borrow(key), nb::borrow(value));
  }
}

bool Contents::differs(const Dict& dict) {
  if (static_cast<std::size_t>(PyDict_GET_SIZE(dict.dict.ptr())) != dict.entries.size())
    return true;
  if (dict.entries.empty()) return false;
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
  return storages_.changed() || std::ranges::any_of(dicts_, &Contents::differs);
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
