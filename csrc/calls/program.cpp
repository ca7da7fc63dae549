#include "calls/program.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace vramx::calls {

void Program::call_begins(nb::handle called) const {
  static const nb::handle name = PyUnicode_InternFromString("call_begins");
  methods_.attr(name)(called);
}

void Program::contents_changed(nb::handle unit) const { methods_.attr("contents_changed")(unit); }

void Program::storage_replaced(nb::handle unit) const { methods_.attr("storage_replaced")(unit); }

void Program::wrote(const Ranges& ranges) const { methods_.attr("wrote")(ranges); }

void Program::scratch_grew() const { methods_.attr("scratch_grew")(); }

Ranges Program::activations(PyObject* args, PyObject* kwargs) const {
  const nb::object named = kwargs != nullptr ? nb::borrow(kwargs) : nb::dict();
  return nb::cast<Ranges>(methods_.attr("activations")(nb::handle(args), named));
}

}  // namespace vramx::calls
