// A module's own call, around which a lease is taken.
//
// The framework's way from a module's call to its `forward` is Python code that looks for hooks and
// makes ready for them. Where there are none, `forward` is called at once: that saves more time
// than taking the place of the call costs.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

namespace vramx::calls {

/// Where the framework looks for hooks before it calls a module's `forward`.
class HookPlaces {
 public:
  using Names = std::vector<nanobind::str>;

  /// Attributes of each module, entries `among` the framework's own names, and its function that
  /// returns what is true where something is being traced.
  HookPlaces(Names of_module, Names of_all, nanobind::dict among, nanobind::object traced);

  /// Whether a call of a module would go to its `forward` and do nothing else.
  bool none(nanobind::handle module) const;

 private:
  Names of_module_;
  Names of_all_;
  nanobind::dict among_;
  nanobind::object traced_;
};

class OwnCall {
 public:
  /// `callee` is a module where `hooks` are given, else what to call.
  OwnCall(nanobind::object callee, nanobind::object hooks);

  nanobind::object operator()(PyObject* args, PyObject* kwargs) const;
  const nanobind::object& callee() const { return callee_; }
  void clear() { callee_.reset(); }

 private:
  nanobind::object callee_;
  nanobind::object hooks_;
};

}  // namespace vramx::calls
