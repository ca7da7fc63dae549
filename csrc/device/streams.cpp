#include "device/streams.hpp"

#include "base/error.hpp"

namespace vramx {

namespace {

template <class Ask>
Fence or_nothing(const Ask& ask) noexcept {
  try {
    return ask();
  } catch (const Error&) {
    return nullptr;
  }
}

}  // namespace

Fence mark_or_nothing(Streams& streams, Stream stream) noexcept {
  return or_nothing([&] { return streams.mark(stream); });
}

Fence clock_or_nothing(Streams& streams, Stream stream) noexcept {
  return or_nothing([&] { return streams.clock(stream); });
}

}  // namespace vramx
