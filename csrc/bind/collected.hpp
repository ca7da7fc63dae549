// What the interpreter's collector of garbage asks of objects that hold others.
#pragma once

#include <nanobind/nanobind.h>

namespace vramx::bind {

template <class T>
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nanobind::inst_ready(self)) return 0;
  return nanobind::inst_ptr<T>(self)->each_object(
      [&](PyObject* object) { return object == nullptr ? 0 : visit(object, arg); });
}

template <class T>
int clear(PyObject* self) {
  nanobind::inst_ptr<T>(self)->clear();
  return 0;
}

/// The slots of a class with `each_object` and `clear`.
template <class T>
inline PyType_Slot collected[] = {
    {Py_tp_traverse, reinterpret_cast<void*>(&traverse<T>)},  // NOLINT
    {Py_tp_clear, reinterpret_cast<void*>(&clear<T>)},        // NOLINT
    {0, nullptr}};

}  // namespace vramx::bind
