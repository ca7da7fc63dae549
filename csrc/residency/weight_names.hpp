// What the program calls its weights, for errors that name them.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/range.hpp"

namespace vramx {

class WeightNames {
 public:
  void add(Range weights, std::string name) {
    forget(weights);
    names_[weights.start] = {weights.end(), std::move(name)};
  }
  void forget(Range range) { names_.erase(first_in(range), names_.lower_bound(range.end())); }

  /// Those of a range, with commas, and how many there are beyond the first; empty for none.
  std::string in(Range range) {
    constexpr int most = 5;
    std::string all;
    int count = 0;
    for (auto it = first_in(range); it != names_.lower_bound(range.end()); ++it) {
      if (++count <= most) all += (count == 1 ? "" : ", ") + it->second.second;
    }
    if (count > most) all += " and " + std::to_string(count - most) + " more";
    return all;
  }

 private:
  using Names =
      std::map<Address, std::pair<Address, std::string>>;  ///< by start; the end, and name

  /// The first that has a byte of the range, or the first behind it.
  Names::iterator first_in(Range range) {
    const auto it = names_.upper_bound(range.start);
    if (it == names_.begin() || std::prev(it)->second.first <= range.start) return it;
    return std::prev(it);
  }

  Names names_;
};

}  // namespace vramx
