// What modules hold, as of the last look: which parameters, buffers and parts, and which storages.
//
// Programs put other parameters in the place of the first, cast them, give them other data, and add
// and remove modules, at any time between two passes. A look compares addresses, and walks nothing
// but its own lists.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "calls/tensor_layout.hpp"

namespace vramx::calls {

/// What a module names.
using Named = nanobind::typed<nanobind::dict, nanobind::str, nanobind::any>;

/// Dictionaries, with what they held, and storages. Under the interpreter's lock.
class Contents {
 public:
  Contents(const std::vector<Named>& dicts, std::vector<nanobind::object> tensors);
  Contents() = default;

  /// Whether a dictionary has gained, lost or changed an entry, or a tensor has another storage.
  bool changed() const;
  /// Whether a tensor has another storage.
  bool moved() const;
  template <class Visit>
  int each_object(Visit&& visit) const {
    for (const Dict& dict : dicts_) {
      if (const int stop = visit(dict.dict.ptr())) return stop;
      for (const auto& [key, value] : dict.entries) {
        if (const int stop = visit(key.ptr())) return stop;
        if (const int stop = visit(value.ptr())) return stop;
      }
    }
    for (const auto& [tensor, storage] : storages_) {
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
  std::vector<std::pair<nanobind::object, Word>> storages_;  ///< by tensor
};

}  // namespace vramx::calls
