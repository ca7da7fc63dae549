// The stream that the calling thread gives a card's work to.
//
// Every call of a module asks for it, beside work of a few microseconds: so it is asked of the
// framework's C function where there is one. Its Python function takes three times as long.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "base/range.hpp"
#include "device/device.hpp"

namespace vramx::calls {

class PresentStream {
 public:
  /// Puts the stream of a card, by its ordinal, where it is told to; returns 0.
  using Function = std::int32_t (*)(std::int32_t card, void** stream);

  /// `ask` is called with the card where there is no `function`.
  PresentStream(std::int32_t card, nanobind::object ask, Function function);

  Stream operator()() const;

 private:
  Function function_;
  std::int32_t card_;
  nanobind::object ask_;
};

}  // namespace vramx::calls
