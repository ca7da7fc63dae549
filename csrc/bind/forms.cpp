#include "bind/bind.hpp"
#include "forms/packing_kernels.hpp"

namespace nb = nanobind;

namespace vramx::bind {

void forms(nb::module_& module) {
  module.def(
      "packing_kernels",
      [] {
        const PackingKernels kernels = packing_kernels();
        return nb::make_tuple(!kernels.ptx.empty(),
                              nb::str(kernels.origin.data(), kernels.origin.size()));
      },
      nb::sig("def packing_kernels() -> tuple[bool, str]"),
      "Whether this build can pack weights on the card, and what made its kernels, or why not.");
}

}  // namespace vramx::bind
