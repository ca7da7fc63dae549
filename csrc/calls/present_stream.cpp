#include "calls/present_stream.hpp"

#include <string>
#include <utility>

#include "base/error.hpp"

namespace nb = nanobind;

namespace vramx::calls {

PresentStream::PresentStream(std::int32_t card, nb::object ask, Function function)
    : function_(function), card_(card), ask_(std::move(ask)) {}

Stream PresentStream::operator()() const {
  if (function_ == nullptr) return nb::cast<Stream>(ask_(card_));
  void* stream = nullptr;
  if (function_(card_, &stream) != 0) {
    throw DeviceFailure("the framework does not tell the present stream of card " +
                        std::to_string(card_));
  }
  return reinterpret_cast<Stream>(stream);  // NOLINT
}

}  // namespace vramx::calls
