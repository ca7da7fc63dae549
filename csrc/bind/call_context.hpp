// What the leased calls of one session share.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "bind/aliases.hpp"
#include "bind/present_stream.hpp"
#include "core/core.hpp"

namespace vramx::bind {

/// How many calls of one session's modules each thread is in. Under the interpreter's lock.
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

/// Whether the calling thread captures what it asks of the card, to replay it later.
extern thread_local bool capturing;

struct CallContext {
  std::shared_ptr<Core> core;
  PresentStream stream;
  nanobind::object activations;   ///< tells which of a call's arguments lie in the core's memory
  nanobind::object scratch_grew;  ///< called where frameworks hold too much of the budget
  nanobind::object wrote;         ///< called with the ranges of weights that were written to
  Nesting nesting{};
  Aliases aliases{};

  /// Reports what was written through aliases since the last look.
  void look_at_aliases();
};

/// Keeps an alias of a weight of any live context's, as Aliases do; nothing for other tensors.
void note_alias(nanobind::handle alias);

/// The card's address of an address in weights of a live context's core; 0 where it is in none.
Address weight_at(Address address);

/// As weight_at, where the program is given that address and nobody knows yet that it has it.
Address newly_addressed(Address address);

}  // namespace vramx::bind
