// The call that takes the place of a module's own and leases what the module uses around it. A
// program may make thousands a pass, each beside work of a few microseconds, so it is native.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "bind/bind.hpp"
#include "bind/call_context.hpp"
#include "bind/contents.hpp"
#include "bind/leases.hpp"
#include "bind/own_call.hpp"
#include "bind/versions.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

class Level {
 public:
  explicit Level(Nesting& nesting) : nesting_(nesting), outermost_(nesting.enter() == 0) {}
  ~Level() { nesting_.leave(); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  bool outermost() const { return outermost_; }

 private:
  Nesting& nesting_;
  bool outermost_;
};

/// The calls that hold a whole module's lease now: those of one thread, on one stream.
class Holding {
 public:
  /// The outermost such call, by number, and how many of the module's parts were called in it.
  std::uint64_t number = 0;
  std::size_t parts_called = 0;

  /// Whether the calling thread's work on a stream is covered.
  bool covers(Stream on) const {
    return calls_ > 0 && thread_ == std::this_thread::get_id() && stream_ == on;
  }
  bool any() const { return calls_ > 0; }
  bool outermost() const { return calls_ == 1; }
  /// Returns whether the call counts; then it leaves too.
  bool enter(Stream on) {
    if (any() && !covers(on)) return false;
    thread_ = std::this_thread::get_id();
    stream_ = on;
    if (calls_++ == 0) {
      ++number;
      parts_called = 0;
    }
    return true;
  }
  void leave() { --calls_; }

 private:
  unsigned calls_ = 0;
  std::thread::id thread_;
  Stream stream_ = 0;
};

/// What a call leases.
struct Leased {
  Contents contents{};    ///< what the module holds of it
  Versions versions{{}};  ///< of those that count
  bool always_written = false;
  /// The storages among them that point at one of two copies. A call keeps those that it holds,
  /// though others come meanwhile.
  std::shared_ptr<const Pointers::Some> pointers = std::make_shared<const Pointers::Some>();
  Ranges others{};  ///< the rest
};

struct LeasedCall {
  // What a covered call reads comes first: there are many such calls, whose lines of memory the
  // program's own work has put out of the cache.
  OwnCall inner;
  std::shared_ptr<CallContext> context;
  nb::object whole{};  ///< the call of the module it is a part of, or null
  Bytes least_budget = 0;
  std::uint64_t last_called = 0;  ///< the number of the whole's call that it was last called in
  bool part_by_part = false;      ///< a call of it did without some of its parts
  Holding holding{};
  GroupId group = 0;
  nb::object begin_round;
  nb::object stale;
  nb::object replaced;
  Leased leased{};
  std::vector<nb::object> within{};  ///< the calls of its parts

  Core& core() const { return *context->core; }

  void note_writes() {
    const bool changed = leased.versions.changed();
    if (!within.empty()) {  // which know whose bytes changed
      if (!changed && !leased.always_written) return;
      for (const nb::object& part : within) nb::inst_ptr<LeasedCall>(part)->note_writes();
      return;
    }
    if (!changed && !leased.always_written) return;
    Pointers::written(*leased.pointers);
    if (leased.others.empty()) return;
    const nb::gil_scoped_release unlocked;
    core().residency().written(blocks_of(core(), leased.others));
  }

  nb::object call(nb::handle self, PyObject* args, PyObject* kwargs) {
    if (part_by_part || core().residency().budget() < least_budget || is_covered()) {
      return inner(args, kwargs);
    }
    if (capturing) {
      throw Captured(
          "a managed module cannot be captured in a CUDA graph: its weights lie elsewhere when "
          "that "
          "is replayed. Unmanage it before, or run it without a graph");
    }
    const Level level(context->nesting);
    if (level.outermost()) begin_round(self);
    if (leased.contents.changed()) stale();
    if (core().scratch().grew()) context->scratch_grew();
    const Stream on = context->stream();
    Ranges touched;
    if (core().residency().scratch_on_host() > 0) {
      touched = nb::cast<Ranges>(context->activations(
          nb::handle(args), kwargs != nullptr ? nb::handle(kwargs) : nb::dict()));
    }
    // What was written since the last call was written to the host copies.
    context->look_at_aliases();
    if (!leased.pointers->empty()) note_writes();
    const std::shared_ptr<const Pointers::Some> pointers = leased.pointers;
    const bool on_card = acquire(core(), group, on);
    try {
      hold(core(), *pointers, on, on_card);
    } catch (...) {
      release(core(), group, on);
      throw;
    }
    nb::object result;
    bool taken = false;
    try {
      if (!touched.empty()) {
        take(core(), touched, on, true);
        taken = true;
      }
      result = within.empty() ? inner(args, kwargs) : call_whole(args, kwargs, on);
    } catch (...) {
      end(*pointers, touched, taken, on);
      throw;
    }
    end(*pointers, touched, taken, on);
    return result;
  }

 private:
  /// Whether it is a part of a whole module that the calling thread runs, on the present stream.
  bool is_covered() {
    if (!whole.is_valid()) return false;
    Holding& outer = nb::inst_ptr<LeasedCall>(whole)->holding;
    if (!outer.any()) return false;
    if (std::exchange(last_called, outer.number) != outer.number) ++outer.parts_called;
    return core().residency().scratch_on_host() == 0 && outer.covers(context->stream());
  }

  /// Calls it for parts that need no lease meanwhile.
  nb::object call_whole(PyObject* args, PyObject* kwargs, Stream on) {
    if (!holding.enter(on)) return inner(args, kwargs);
    struct Leave {
      Holding& holding;
      ~Leave() { holding.leave(); }
    } const leave{holding};
    nb::object result = inner(args, kwargs);
    // Of what chooses among its parts, as a router among experts, only the chosen need be brought.
    part_by_part = holding.outermost() && holding.parts_called < within.size();
    return result;
  }

  // All of it, whatever part fails.
  void end(const Pointers::Some& pointers, const Ranges& touched, bool taken, Stream on) {
    std::exception_ptr failure;
    const auto attempt = [&](auto&& part) {
      try {
        part();
      } catch (...) {
        failure = std::current_exception();
      }
    };
    if (taken) attempt([&] { give(core(), touched, on, true); });
    if (leased.contents.moved()) attempt([&] { replaced(); });
    attempt([&] { context->look_at_aliases(); });
    attempt([&] { note_writes(); });
    attempt([&] { core().pointers().let_go(pointers, on); });
    attempt([&] { release(core(), group, on); });
    if (failure) std::rethrow_exception(failure);
  }
};

PyObject* call_leased(PyObject* self, PyObject* args, PyObject* kwargs) {
  return returned_or_raised(
      [&] { return nb::inst_ptr<LeasedCall>(self)->call(self, args, kwargs).release().ptr(); });
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  const auto* call = nb::inst_ptr<LeasedCall>(self);
  Py_VISIT(call->inner.callee().ptr());
  for (const auto* each : {&call->begin_round, &call->stale, &call->replaced, &call->whole}) {
    Py_VISIT(each->ptr());
  }
  for (const auto* several : {&call->leased.versions.tensors(), &call->within}) {
    for (const nb::object& each : *several) Py_VISIT(each.ptr());
  }
  return call->leased.contents.each_object(
      [&](PyObject* object) { return object == nullptr ? 0 : visit(object, arg); });
}

int clear(PyObject* self) {
  auto* call = nb::inst_ptr<LeasedCall>(self);
  call->inner.clear();
  call->begin_round.reset();
  call->stale.reset();
  call->replaced.reset();
  call->whole.reset();
  call->leased.contents.clear();
  call->leased.versions.clear();
  call->within.clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(call_leased)},   // NOLINT
                       {Py_tp_traverse, reinterpret_cast<void*>(traverse)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},        // NOLINT
                       {0, nullptr}};

}  // namespace

void call(nb::module_& module) {
  nb::class_<LeasedCall>(
      module, "LeasedCall", nb::type_slots(slots), nb::is_weak_referenceable(),
      "Calls `inner` under a lease of a group, with a budget of `least_budget` bytes or "
      "more.\n\nIt is a module where `hooks` say where that has them. `begin_round` is called with "
      "the call\nbefore a thread's outermost one; `stale` where the module does not hold what is "
      "leased;\n`replaced` under the lease, where a tensor has another storage after the call.")
      .def(nb::new_([](std::shared_ptr<CallContext> context, GroupId group, nb::object inner,
                       nb::object hooks, nb::object begin_round, nb::object stale,
                       nb::object replaced, Bytes least_budget) {
             return new LeasedCall{.inner = OwnCall(std::move(inner), std::move(hooks)),
                                   .context = std::move(context),
                                   .least_budget = least_budget,
                                   .group = group,
                                   .begin_round = std::move(begin_round),
                                   .stale = std::move(stale),
                                   .replaced = std::move(replaced)};
           }),
           "context"_a, "group"_a, "inner"_a, "hooks"_a.none(), "begin_round"_a, "stale"_a,
           "replaced"_a, "least_budget"_a)
      .def(
          "lease",
          [](LeasedCall& call, const Ranges& ranges, const std::vector<Named>& dicts,
             std::vector<nb::object> tensors, std::vector<nb::object> versioned,
             bool always_written) {
            auto [pointers, others] = parts_of(call.core(), ranges);
            call.leased =
                Leased{.contents = Contents(dicts, std::move(tensors)),
                       .versions = Versions(std::move(versioned)),
                       .always_written = always_written,
                       .pointers = std::make_shared<const Pointers::Some>(std::move(pointers)),
                       .others = std::move(others)};
          },
          "ranges"_a, "dicts"_a, "tensors"_a, "versioned"_a, "always_written"_a,
          "Says what its group is: ranges, what the module holds, and the tensors that count.")
      .def_prop_rw(
          "always_written", [](const LeasedCall& call) { return call.leased.always_written; },
          [](LeasedCall& call, bool is) { call.leased.always_written = is; },
          "Whether its memory counts as written at each of its calls.")
      .def_prop_ro(
          "changed", [](const LeasedCall& call) { return call.leased.contents.changed(); },
          "Whether the module does not hold what is leased.")
      .def_prop_ro(
          "loses_writes", [](const LeasedCall& call) { return !call.leased.others.empty(); },
          "Whether what was written between its calls is lost where it leaves the card unnoted.")
      .def("note_writes", &LeasedCall::note_writes,
           "Reports versioned tensors that were changed in place since the last look.")
      .def(
          "part_of",
          [](nb::handle_t<LeasedCall> part, nb::handle_t<LeasedCall> whole) {
            nb::inst_ptr<LeasedCall>(part)->whole = nb::borrow(whole);
            nb::inst_ptr<LeasedCall>(whole)->within.push_back(nb::borrow(part));
          },
          "whole"_a,
          "Leases nothing while the call of a module that it is a part of holds a lease.")
      .def(
          "part_of_none",
          [](LeasedCall& call) {
            call.whole.reset();
            call.part_by_part = false;
          },
          "Is a part of no other call any more.")
      // Copies and pickles of the module do not carry it.
      .def(
          "__deepcopy__", [](const LeasedCall&, nb::handle) { return nb::none(); }, "memo"_a)
      .def(
          "__reduce__",
          [](const LeasedCall&) { return nb::make_tuple(nb::none().type(), nb::tuple()); },
          nb::sig("def __reduce__(self) -> tuple[type, tuple[()]]"));
}

}  // namespace vramx::bind
