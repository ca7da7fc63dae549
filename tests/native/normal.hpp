// A normal distribution, as weights have.
#pragma once

#include <array>
#include <random>

namespace vramx::testing {

/// One of many draws, which are made once: a test fills megabytes with them.
inline float normal_weight(std::mt19937& random) {
  static const auto drawn = [] {
    std::mt19937 engine(3);
    std::normal_distribution<float> weights(0, 0.02F);
    std::array<float, 1 << 16> all;
    for (float& each : all) each = weights(engine);
    return all;
  }();
  return drawn[random() % drawn.size()];
}

}  // namespace vramx::testing
