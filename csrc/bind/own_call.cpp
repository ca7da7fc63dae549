#include "bind/own_call.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>

#include "bind/bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

nb::object owned(PyObject* made) {
  if (made == nullptr) throw nb::python_error();
  return nb::steal(made);
}

/// Whether all of these are empty dictionaries.
bool all_empty(const HookPlaces::Names& names, nb::handle among) {
  return std::ranges::all_of(names, [among](const nb::str& name) {
    PyObject* const hooks = PyDict_GetItemWithError(among.ptr(), name.ptr());
    if (hooks == nullptr && PyErr_Occurred() != nullptr) throw nb::python_error();
    return hooks != nullptr && PyDict_Check(hooks) && PyDict_GET_SIZE(hooks) == 0;
  });
}

}  // namespace

HookPlaces::HookPlaces(Names of_module, Names of_all, nb::dict among, nb::object traced)
    : of_module_(std::move(of_module)),
      of_all_(std::move(of_all)),
      among_(std::move(among)),
      traced_(std::move(traced)) {}

bool HookPlaces::none(nb::handle module) const {
  if (PyObject_IsTrue(traced_().ptr()) != 0) return false;
  const nb::object attributes = owned(PyObject_GenericGetDict(module.ptr(), nullptr));
  return all_empty(of_module_, attributes) && all_empty(of_all_, among_);
}

OwnCall::OwnCall(nb::object callee, nb::object hooks)
    : callee_(std::move(callee)), hooks_(std::move(hooks)) {
  if (!hooks_.is_none()) nb::cast<const HookPlaces&>(hooks_);  // throws where they are none
}

nb::object OwnCall::operator()(PyObject* args, PyObject* kwargs) const {
  static const nb::handle forward = PyUnicode_InternFromString("forward");
  static const nb::handle call_impl = PyUnicode_InternFromString("_call_impl");
  if (hooks_.is_none()) return owned(PyObject_Call(callee_.ptr(), args, kwargs));
  const bool unhooked = nb::inst_ptr<HookPlaces>(hooks_)->none(callee_);
  const nb::object own = nb::getattr(callee_, unhooked ? forward : call_impl);
  return owned(PyObject_Call(own.ptr(), args, kwargs));
}

void own_call(nb::module_& module) {
  nb::class_<HookPlaces>(module, "HookPlaces",
                         "Where the framework looks for hooks before it calls a module's forward.")
      .def(nb::init<HookPlaces::Names, HookPlaces::Names, nb::typed<nb::dict, nb::str, nb::object>,
                    nb::object>(),
           "of_module"_a, "of_all"_a, "among"_a, "traced"_a)
      .def("none", &HookPlaces::none, "module"_a,
           "Whether a call of the module goes to its forward and does nothing else.");
}

}  // namespace vramx::bind
