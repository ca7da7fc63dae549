// One function a floor; module.cpp calls them in order.
#pragma once

#include <nanobind/nanobind.h>

#include "residency/residency.hpp"

namespace vramx::bind {

void errors(nanobind::module_& module);
void device(nanobind::module_& module);
void policy(nanobind::module_& module);
void plan(nanobind::module_& module);
void residency(nanobind::module_& module);
void seen(nanobind::module_& module);
void core(nanobind::module_& module);

/// Lets Python's signal handlers run while a call waits; throws what they raise.
Poll python_signals();

/// A policy by name, or a Python object with arrived, touched, left and victim.
MakePolicy policy_from(nanobind::object given);

}  // namespace vramx::bind
