// What modules hold, as of the last look: which parameters, buffers and parts, and which storages.
//
// Programs put other parameters in the place of the first, cast them, give them other data, and add
// and remove modules, at any time between two passes. A look compares addresses, and walks nothing
// but its own lists.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "bind/tensor_layout.hpp"

namespace vramx::bind {

/// Tensors and the storages that they had. Under the interpreter's lock.
class Storages {
 public:
  explicit Storages(std::vector<nanobind::object> tensors);

  /// Whether one of them has another storage now.
  bool changed() const;
  const std::vector<nanobind::object>& tensors() const { return tensors_; }
  void clear();

 private:
  std::vector<nanobind::object> tensors_;
  std::vector<Word> storages_;
};

/// What a module names.
using Named = nanobind::typed<nanobind::dict, nanobind::str, nanobind::any>;

/// Dictionaries, with what they held, and storages. Under the interpreter's lock.
class Contents {
 public:
  Contents(const std::vector<Named>& dicts, std::vector<nanobind::object> tensors);
  Contents() : storages_({}) {}

  /// Whether a dictionary has gained, lost or changed an entry, or a tensor has another storage.
  bool changed() const;
  /// Whether a tensor has another storage.
  bool moved() const { return storages_.changed(); }
  template <class Visit>
  int each_object(Visit&& visit) const {
    for (const Dict& dict : dicts_) {
      if (const int stop = visit(dict.dict.ptr())) return stop;
      for (const auto& [key, value] : dict.entries) {
        if (const int stop = visit(key.ptr())) return stop;
        if (const int stop = visit(value.ptr())) return stop;
      }
    }
    for (const nanobind::object& tensor : storages_.tensors()) {
      if (const int stop = visit(tensor.ptr())) return stop;
    }
    return 0;
  }
  void clear();

 private:
  struct Dict {
    nanobind::object dict;
    std::vector<std::pair<nanobind::object, nanobind::object>> entries{};
  };

  static bool differs(const Dict& dict);

  std::vector<Dict> dicts_;
  Storages storages_;
};

}  // namespace vramx::bind
