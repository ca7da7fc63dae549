#include "base/bytes.hpp"

#include <array>
#include <cstdio>

namespace vramx {

std::string text(Bytes size) {
  std::array<char, 32> out{};
  const auto in = [&](Bytes unit, const char* name) {
    std::snprintf(out.data(), out.size(), "%.2f %s",
                  static_cast<double>(size) / static_cast<double>(unit), name);
  };
  if (size >= GiB) {
    in(GiB, "GiB");
  } else if (size >= MiB) {
    in(MiB, "MiB");
  } else if (size >= KiB) {
    in(KiB, "KiB");
  } else {
    std::snprintf(out.data(), out.size(), "%llu B", static_cast<unsigned long long>(size));
  }
  return out.data();
}

}  // namespace vramx
