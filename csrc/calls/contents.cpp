#include "calls/contents.hpp"

#include <algorithm>
#include <utility>

namespace nb = nanobind;

namespace vramx::calls {

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

}  // namespace vramx::calls
