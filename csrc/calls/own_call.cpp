#include "calls/own_call.hpp"

#include <algorithm>
#include <utility>

namespace nb = nanobind;

namespace vramx::calls {

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

}  // namespace vramx::calls
