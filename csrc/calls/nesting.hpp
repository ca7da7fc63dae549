// How many calls each thread is in.
#pragma once

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

namespace vramx::calls {

/// Those of one session's modules. Under the interpreter's lock.
class Nesting {
 public:
  /// Returns how many there were.
  unsigned enter() {
    const auto mine = find();
    if (mine != depths_.end()) return mine->second++;
    depths_.emplace_back(std::this_thread::get_id(), 1);
    return 0;
  }
  void leave() {
    const auto mine = find();
    if (mine != depths_.end() && --mine->second == 0) depths_.erase(mine);
  }

 private:
  using Depths = std::vector<std::pair<std::thread::id, unsigned>>;

  Depths::iterator find() {
    return std::find_if(depths_.begin(), depths_.end(),
                        [](const auto& each) { return each.first == std::this_thread::get_id(); });
  }

  Depths depths_;
};

}  // namespace vramx::calls
