// What leased calls tell of and ask for above themselves.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

#include "calls/leases.hpp"

namespace vramx::calls {

/// A Python object with a method for each of these. Under the interpreter's lock.
class Program {
 public:
  explicit Program(nanobind::object methods) : methods_(std::move(methods)) {}

  /// A thread's outermost call of something begins: of a unit, or of a managed module.
  void call_begins(nanobind::handle called) const;
  /// The module of a unit does not hold what its call leases.
  void contents_changed(nanobind::handle unit) const;
  /// A tensor of a unit has another storage than before the call, which still holds its lease.
  void storage_replaced(nanobind::handle unit) const;
  /// Weights were written to.
  void wrote(const Ranges& ranges) const;
  /// Frameworks hold as much as was to be told of.
  void scratch_grew() const;
  /// Which of a call's arguments lie in the core's memory; `kwargs` may be null.
  Ranges activations(PyObject* args, PyObject* kwargs) const;

 private:
  nanobind::object methods_;
};

}  // namespace vramx::calls
