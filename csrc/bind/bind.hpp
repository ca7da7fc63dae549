// One function a floor; module.cpp calls them in order.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>

#include "residency/residency.hpp"

namespace vramx::bind {

void errors(nanobind::module_& module);
void device(nanobind::module_& module);
void forms(nanobind::module_& module);
void policy(nanobind::module_& module);
void plan(nanobind::module_& module);
void residency(nanobind::module_& module);
void seen(nanobind::module_& module);
void core(nanobind::module_& module);
void tensors(nanobind::module_& module);
void calls(nanobind::module_& module);

/// Raises in Python what a function of ours threw.
void raise(const std::exception_ptr& thrown);

/// A policy by name, or a Python object with fetched, leased, evicted and victim.
MakeStrategy policy_from(nanobind::object given);

}  // namespace vramx::bind
