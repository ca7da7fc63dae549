// How often tensors were changed in place, as the framework counts it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace vramx::calls {

/// The counts of some tensors, as of the last look. Under the interpreter's lock.
class Versions {
 public:
  /// Tensors that count.
  explicit Versions(std::vector<nanobind::object> tensors);

  /// Whether some were changed since the last look; this is one.
  bool changed();
  template <class Visit>
  int each_object(Visit&& visit) const {
    for (const nanobind::object& tensor : tensors_) {
      if (const int stop = visit(tensor.ptr())) return stop;
    }
    return 0;
  }
  void clear() { tensors_.clear(); }

 private:
  std::int64_t total() const;

  std::vector<nanobind::object> tensors_;
  std::int64_t total_;
};

}  // namespace vramx::calls
