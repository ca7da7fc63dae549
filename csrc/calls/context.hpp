// What the leased calls of one session share.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "calls/aliases.hpp"
#include "calls/nesting.hpp"
#include "calls/present_stream.hpp"
#include "calls/program.hpp"
#include "core/core.hpp"

namespace vramx::calls {

/// Whether the calling thread captures what it asks of the card, to replay it later.
extern thread_local bool capturing;

/// Under the interpreter's lock.
struct Context {
  std::shared_ptr<Core> core;
  PresentStream stream;
  Program program;
  Nesting nesting{};
  Aliases aliases{};

  /// One that is known to those that ask by an address.
  static std::shared_ptr<Context> make(std::shared_ptr<Core> core, PresentStream stream,
                                       Program program);

  /// A call on the calling thread begins. Before its outermost one, the program is told. On a throw
  /// it has not begun.
  void enter(nanobind::handle called);
  void leave() { nesting.leave(); }
  /// Reports what was written through aliases since the last look.
  void look_at_aliases();
};

/// Keeps an alias of a weight of any live context's, as Aliases do; nothing for other tensors.
void note_alias(nanobind::handle alias);

/// The card's address of an address in weights of a live context's core; 0 where it is in none.
Address weight_at(Address address);

/// As weight_at, where the program is given that address and nobody knows yet that it has it.
Address newly_addressed(Address address);

}  // namespace vramx::calls
