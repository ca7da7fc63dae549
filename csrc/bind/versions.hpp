// How often tensors were changed in place, as the framework counts it.
//
// Asking the framework takes a tenth of a microsecond a tensor and more, and every call of a module
// asks for all of its weights twice. So the count is read where the framework keeps it, once that
// place was found by its value; until then, and where it was not found, the framework is asked.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace vramx::bind {

/// The counts of some tensors, as of the last look. Under the interpreter's lock.
class Versions {
 public:
  /// Tensors that count.
  explicit Versions(std::vector<nanobind::object> tensors);

  /// Whether some were changed since the last look; this is one.
  bool changed();
  const std::vector<nanobind::object>& tensors() const { return tensors_; }
  void clear() { tensors_.clear(); }

 private:
  std::int64_t total() const;

  std::vector<nanobind::object> tensors_;
  bool in_place_;  ///< the counts are where the framework keeps them in the tensors it was shown
  std::int64_t total_;
};

}  // namespace vramx::bind
