#include "calls/context.hpp"

#include <utility>
#include <vector>

#include "calls/tensor_layout.hpp"

namespace nb = nanobind;

namespace vramx::calls {

namespace {

/// The contexts of open sessions. Under the interpreter's lock.
std::vector<std::weak_ptr<Context>>& contexts() {
  static auto* all = new std::vector<std::weak_ptr<Context>>;
  return *all;
}

/// The context whose core's weights hold the card's address; null for none.
std::shared_ptr<Context> context_of(Address address) {
  for (const auto& each : contexts()) {
    std::shared_ptr<Context> context = each.lock();
    if (context && context->core->residency().holds_weights(address)) return context;
  }
  return nullptr;
}

}  // namespace

thread_local bool capturing = false;

void note_alias(nb::handle alias) {
  if (contexts().empty()) return;
  const Address address = card_address(data_of(alias));
  if (address == 0) return;
  if (const auto context = context_of(address)) {
    const auto size = nb::cast<Bytes>(alias.attr("untyped_storage")().attr("nbytes")());
    context->aliases.add(nb::borrow(alias), address, size);
  }
}

Address weight_at(Address address) {
  if (contexts().empty() || address == 0) return 0;
  const Address card = card_address(address);
  return context_of(card) ? card : 0;
}

Address newly_addressed(Address address) {
  if (contexts().empty() || address == 0) return 0;
  const Address card = card_address(address);
  const auto context = context_of(card);
  if (!context) return 0;
  for (const auto& pointer : context->core->pointers().of({card, 1})) {
    bool& known = pointer->on_card() ? pointer->addressed : pointer->exposed;
    if (known) return 0;
    if (pointer->on_card()) known = true;
  }
  return card;
}

std::shared_ptr<Context> Context::make(std::shared_ptr<Core> core, PresentStream stream,
                                       Program program) {
  std::erase_if(contexts(), [](const auto& each) { return each.expired(); });
  auto made = std::make_shared<Context>(
      Context{.core = std::move(core), .stream = std::move(stream), .program = std::move(program)});
  contexts().push_back(made);
  return made;
}

void Context::enter(nb::handle called) {
  if (nesting.enter() > 0) return;
  try {
    look_at_aliases();
    program.call_begins(called);
  } catch (...) {
    leave();
    throw;
  }
}

void Context::look_at_aliases() {
  if (aliases.empty()) return;
  Ranges changed = aliases.look();
  // What was written may have been replaced since, and given up.
  std::erase_if(changed, [this](const auto& range) {
    return !core->residency().owns({range.first, range.second});
  });
  if (!changed.empty()) program.wrote(changed);
}

}  // namespace vramx::calls
