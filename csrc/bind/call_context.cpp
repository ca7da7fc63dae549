#include "bind/call_context.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.hpp"
#include "bind/tensor_layout.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

/// The contexts of open sessions. Under the interpreter's lock.
std::vector<std::weak_ptr<CallContext>>& contexts() {
  static auto* all = new std::vector<std::weak_ptr<CallContext>>;
  return *all;
}

/// The context whose core's weights hold the card's address; null for none.
std::shared_ptr<CallContext> context_of(Address address) {
  for (const auto& each : contexts()) {
    std::shared_ptr<CallContext> context = each.lock();
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

void CallContext::look_at_aliases() {
  if (aliases.empty()) return;
  const Ranges changed = aliases.look();
  if (!changed.empty()) wrote(changed);
}

void call_context(nb::module_& module) {
  nb::class_<CallContext>(module, "CallContext", "What the leased calls of one session share.")
      .def(nb::new_([](std::shared_ptr<Core> core, const PresentStream& stream,
                       nb::object activations, nb::object scratch_grew, nb::object wrote) {
             std::erase_if(contexts(), [](const auto& each) { return each.expired(); });
             auto made =
                 std::make_shared<CallContext>(CallContext{.core = std::move(core),
                                                           .stream = stream,
                                                           .activations = std::move(activations),
                                                           .scratch_grew = std::move(scratch_grew),
                                                           .wrote = std::move(wrote)});
             contexts().push_back(made);
             return made;
           }),
           "core"_a, "stream"_a, "activations"_a, "scratch_grew"_a, "wrote"_a)
      .def(
          "enter", [](CallContext& context) { return context.nesting.enter(); },
          "Notes a call on this thread; returns how many it was in.")
      .def(
          "leave", [](CallContext& context) { context.nesting.leave(); }, "Notes its end.")
      .def("look_at_aliases", &CallContext::look_at_aliases,
           "Reports what was written through aliases since the last look.");
  module.def(
      "set_capturing", [](bool is) { capturing = is; }, "capturing"_a,
      "Says whether the calling thread captures what it asks of the card.");
  module.def("note_alias", &note_alias, "alias"_a,
             "Counts the changes of an alias, if it is one of a session's weights.");
  module.def("weight_at", &weight_at, "address"_a,
             "The card's address of an address in a session's weights; 0 where it is in none.");
  module.def("newly_addressed", &newly_addressed, "address"_a,
             "As weight_at, but 0 where it is known already that the program has the address.");
  module.def("data_address", &data_of, "tensor"_a,
             "Where a tensor's storage begins; 0 where it has none.");
}

}  // namespace vramx::bind
