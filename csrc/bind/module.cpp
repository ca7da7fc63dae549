#include "bind/bind.hpp"

NB_MODULE(_core, module) {
  module.doc() = "vramx's native core. Use the vramx package; this module may change at any time.";
  // Tensors may outlive the interpreter's teardown; that is no fault to report to users.
  nanobind::set_leak_warnings(false);
  vramx::bind::errors(module);
  vramx::bind::device(module);
  vramx::bind::forms(module);
  vramx::bind::policy(module);
  vramx::bind::plan(module);
  vramx::bind::residency(module);
  vramx::bind::seen(module);
  vramx::bind::core(module);
  vramx::bind::tensors(module);
  vramx::bind::calls(module);
}
