// What the simulated card is made of.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/pages.hpp"
#include "device/simulated.hpp"

namespace vramx {

struct SimulatedDevice::Time final : Mark {
  Time(double seconds, SimulatedWork::Ticket work) : at(seconds), last(std::move(work)) {}
  double at;
  SimulatedWork::Ticket last;
};

struct SimulatedDevice::Chunk {
  Range range;
  Range host;
  bool host_addresses = false;  ///< the program may use the host copy
  bool confined = false;        ///< it means nothing
  std::map<Address, Bytes> on_card{};
  std::optional<Range> idle{};  ///< poison, at which nothing lies
  bool settled = false;

  void unmap() const {
    unmap_pages(range);
    unmap_pages(host);
    if (idle) unmap_pages(*idle);
  }

  /// For what is there; see SimulatedDevice::raw_bytes.
  unsigned char* on_host(Address address) const {
    return static_cast<unsigned char*>(host.data()) + (address - range.start);
  }

  /// The parts of `part` that are on the card.
  std::vector<Range> held(Range part) const {
    std::vector<Range> found;
    auto it = on_card.upper_bound(part.start);
    if (it != on_card.begin()) --it;
    for (; it != on_card.end() && it->first < part.end(); ++it) {
      const Address start = std::max(it->first, part.start);
      const Address end = std::min(it->first + it->second, part.end());
      if (start < end) found.push_back({start, end - start});
    }
    return found;
  }

  bool holds_all(Range part) const {
    Bytes total = 0;
    for (const Range& each : held(part)) total += each.size;
    return total == part.size;
  }

  void take_off(Range part) {
    for (const Range& each : held(part)) {
      const auto it = std::prev(on_card.upper_bound(each.start));
      const Range whole{it->first, it->second};
      on_card.erase(it);
      if (whole.start < each.start) on_card[whole.start] = each.start - whole.start;
      if (each.end() < whole.end()) on_card[each.end()] = whole.end() - each.end();
    }
  }
};

}  // namespace vramx
