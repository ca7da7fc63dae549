#include "bind/present_stream.hpp"

#include <string>
#include <utility>

#include "base/error.hpp"
#include "bind/bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

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

void present_stream(nb::module_& module) {
  nb::class_<PresentStream>(module, "PresentStream",
                            "The stream that the calling thread gives a card's work to.")
      .def(
          "__init__",
          [](PresentStream* made, std::int32_t card, nb::object ask, std::uintptr_t function) {
            auto* const called = reinterpret_cast<PresentStream::Function>(function);  // NOLINT
            new (made) PresentStream(card, std::move(ask), called);
          },
          "card"_a, "ask"_a, "function"_a = 0,
          "Asks the C function at an address, or calls `ask` where that is 0.")
      .def("__call__", &PresentStream::operator(), "Returns its handle.");
}

}  // namespace vramx::bind
