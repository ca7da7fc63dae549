#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <utility>

#include "bind/bind.hpp"
#include "bind/collected.hpp"
#include "calls/context.hpp"
#include "calls/leased_call.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

using namespace vramx::calls;

namespace {

/// Python calls it without nanobind between.
PyObject* call_leased(PyObject* self, PyObject* args, PyObject* kwargs) noexcept {
  try {
    return (*nb::inst_ptr<LeasedCall>(self))(args, kwargs).release().ptr();
  } catch (nb::python_error& error) {
    error.restore();
  } catch (...) {
    raise(std::current_exception());
  }
  return nullptr;
}

PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(call_leased)},                // NOLINT
                       {Py_tp_traverse, reinterpret_cast<void*>(&traverse<LeasedCall>)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(&clear<LeasedCall>)},        // NOLINT
                       {0, nullptr}};

void bind_context(nb::module_& module) {
  nb::class_<Context>(
      module, "CallContext",
      "What the leased calls of one session share.\n\n`program` is told of what they do, by its "
      "methods: `call_begins` of a thread's outermost\ncall, `contents_changed` of a unit whose "
      "module does not hold what is leased,\n`storage_replaced` of one where a tensor has another "
      "storage after the call, `wrote` of\nranges, `scratch_grew`. Its `activations` returns which "
      "arguments lie in the core's memory.")
      .def(
          nb::new_([](std::shared_ptr<Core> core, const PresentStream& stream, nb::object program) {
            return Context::make(std::move(core), stream, Program(std::move(program)));
          }),
          "core"_a, "stream"_a, "program"_a)
      .def("enter", &Context::enter, "called"_a,
           "Notes a call on this thread, of which the program is told if it is the outermost.")
      .def("leave", &Context::leave, "Notes its end.")
      .def("look_at_aliases", &Context::look_at_aliases,
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
}

}  // namespace

void calls(nb::module_& module) {
  bind_context(module);

  nb::class_<LeasedCall>(
      module, "LeasedCall", nb::type_slots(slots), nb::is_weak_referenceable(),
      "Calls `inner` under a lease of a group, with a budget of `least_budget` bytes or "
      "more.\n\nIt is a module where `hooks` say where that has them. The context's program is "
      "told of `unit`.")
      .def(nb::new_([](std::shared_ptr<Context> context, nb::object unit, GroupId group,
                       nb::object inner, nb::object hooks, Bytes least_budget) {
             return new LeasedCall(std::move(context), std::move(unit), group,
                                   OwnCall(std::move(inner), std::move(hooks)), least_budget);
           }),
           "context"_a, "unit"_a, "group"_a, "inner"_a, "hooks"_a.none(), "least_budget"_a)
      .def("lease", &LeasedCall::lease, "ranges"_a, "dicts"_a, "tensors"_a, "versioned"_a,
           "always_written"_a,
           "Says what its group is: ranges, what the module holds, and the tensors that count.")
      .def_prop_rw(
          "always_written", [](const LeasedCall& call) { return call.always_written(); },
          [](LeasedCall& call, bool is) { call.always_written(is); },
          "Whether its memory counts as written at each of its calls.")
      .def_prop_ro("changed", &LeasedCall::changed,
                   "Whether the module does not hold what is leased.")
      .def_prop_ro(
          "loses_writes", &LeasedCall::loses_writes,
          "Whether what was written between its calls is lost where it leaves the card unnoted.")
      .def("note_writes", &LeasedCall::note_writes,
           "Reports versioned tensors that were changed in place since the last look.")
      .def(
          "fuse",
          [](nb::handle_t<LeasedCall> fused, nb::handle_t<LeasedCall> member) {
            LeasedCall::fuse(fused, member);
          },
          "member"_a, "The call of a member leases nothing while this one holds a lease.")
      // Copies and pickles of the module do not carry it.
      .def(
          "__deepcopy__", [](const LeasedCall&, nb::handle) { return nb::none(); }, "memo"_a)
      .def(
          "__reduce__",
          [](const LeasedCall&) { return nb::make_tuple(nb::none().type(), nb::tuple()); },
          nb::sig("def __reduce__(self) -> tuple[type, tuple[()]]"));
}

}  // namespace vramx::bind
