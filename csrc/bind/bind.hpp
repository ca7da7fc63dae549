// One function a floor; module.cpp calls them in order.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>

#include "residency/residency.hpp"

namespace vramx::bind {

void errors(nanobind::module_& module);
void device(nanobind::module_& module);
void policy(nanobind::module_& module);
void plan(nanobind::module_& module);
void residency(nanobind::module_& module);
void seen(nanobind::module_& module);
void core(nanobind::module_& module);
void tensor_layout(nanobind::module_& module);
void versions(nanobind::module_& module);
void contents(nanobind::module_& module);
void own_call(nanobind::module_& module);
void present_stream(nanobind::module_& module);
void call_context(nanobind::module_& module);
void call(nanobind::module_& module);

/// Raises in Python what a function of ours threw.
void raise(const std::exception_ptr& thrown);

/// What `body` returns, or null with what it threw raised in Python: for functions that Python
/// calls without nanobind between.
template <class Body>
PyObject* returned_or_raised(Body&& body) noexcept {
  try {
    return body();
  } catch (nanobind::python_error& error) {
    error.restore();
  } catch (...) {
    raise(std::current_exception());
  }
  return nullptr;
}

/// Lets Python's signal handlers run while a call waits; throws what they raise.
Poll python_signals();

/// A policy by name, or a Python object with arrived, touched, left and victim.
MakeStrategy policy_from(nanobind::object given);

}  // namespace vramx::bind
