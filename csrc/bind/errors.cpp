#include <exception>
#include <new>

#include "base/error.hpp"
#include "bind/bind.hpp"

namespace nb = nanobind;

namespace vramx::bind {

namespace {

void raise(const char* name, const std::exception& error, const Figures* figures = nullptr) {
  const nb::object type = nb::module_::import_("vramx.errors").attr(name);
  nb::object raised = type(error.what());
  if (figures != nullptr) {
    raised.attr("asked") = figures->asked;
    raised.attr("budget") = figures->budget;
    raised.attr("resident") = figures->resident;
    raised.attr("leased") = figures->leased;
  }
  PyErr_SetObject(type.ptr(), raised.ptr());
}

// Throws on what is no error of vramx's own.
void raise_own(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const OutOfMemory& error) {
    raise("OutOfMemoryError", error, &error.figures);
  } catch (const NoDevice& error) {
    raise("NoDeviceError", error);
  } catch (const DeviceFailure& error) {
    raise("DeviceError", error);
  } catch (const BadConfig& error) {
    raise("ConfigError", error);
  } catch (const InUse& error) {
    raise("InUseError", error);
  } catch (const NotOpen& error) {
    raise("SessionClosedError", error);
  } catch (const Captured& error) {
    raise("CaptureError", error);
  } catch (const UnreportedWrite& error) {
    raise("UnreportedWriteError", error);
  } catch (const Corrupted& error) {
    raise("CorruptedError", error);
  } catch (const Error& error) {
    raise("Error", error);
  }
}

}  // namespace

void raise(const std::exception_ptr& thrown) {
  try {
    raise_own(thrown);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

void errors(nb::module_& /*module*/) {
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void*) { raise_own(thrown); });
}

}  // namespace vramx::bind
