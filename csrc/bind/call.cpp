// The call that takes the place of a module's own and leases what the module uses around it. A
// program may make thousands a pass, each beside work of a few microseconds, so it is native.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#include "bind/bind.hpp"
#include "bind/leases.hpp"
#include "bind/own_call.hpp"
#include "bind/present_stream.hpp"
#include "bind/versions.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

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

struct LeasedCall {
  // What a covered call reads comes first: there are many such calls, whose lines of memory the
  // program's own work has put out of the cache.
  OwnCall inner;
  PresentStream stream;
  nb::object whole{};  ///< the call of the module it is a part of, or null
  Bytes least_budget = 0;
  std::uint64_t last_called = 0;  ///< the number of the whole's call that it was last called in
  bool part_by_part = false;      ///< a call of it did without some of its parts
  std::shared_ptr<Core> core;
  Holding holding{};
  std::shared_ptr<Nesting> nesting;
  GroupId group = 0;
  nb::object begin_round;
  nb::object activations;
  nb::object scratch_grew;
  Versions versions;
  bool always_written = false;
  std::vector<nb::object> within{};  ///< the calls of its parts
  Parts parts{};

  void note_writes() {
    const bool changed = versions.changed();
    if (!within.empty()) {  // which know whose bytes changed
      if (!changed && !always_written) return;
      for (const nb::object& part : within) nb::inst_ptr<LeasedCall>(part)->note_writes();
      return;
    }
    if (changed) Pointers::written(parts.pointers);
    if ((!changed && !always_written) || parts.others.empty()) return;
    const nb::gil_scoped_release unlocked;
    core->residency().written(blocks_of(*core, parts.others));
  }

  nb::object call(nb::handle self, PyObject* args, PyObject* kwargs) {
    if (part_by_part || core->residency().budget() < least_budget || is_covered()) {
      return inner(args, kwargs);
    }
    const Level level(*nesting);
    if (level.outermost()) begin_round(self);
    if (core->scratch().grew()) scratch_grew();
    const Stream on = stream();
    Ranges touched;
    if (core->residency().scratch_on_host() > 0) {
      touched = nb::cast<Ranges>(
          activations(nb::handle(args), kwargs != nullptr ? nb::handle(kwargs) : nb::dict()));
    }
    // What was written since the last call was written to the host copies.
    if (!parts.pointers.empty()) note_writes();
    const bool on_card = acquire(*core, group, on);
    try {
      hold(*core, parts.pointers, on, on_card);
    } catch (...) {
      release(*core, group, on);
      throw;
    }
    nb::object result;
    bool taken = false;
    try {
      if (!touched.empty()) {
        take(*core, touched, on, true);
        taken = true;
      }
      result = within.empty() ? inner(args, kwargs) : call_whole(args, kwargs, on);
    } catch (...) {
      end(touched, taken, on);
      throw;
    }
    end(touched, taken, on);
    return result;
  }

 private:
  /// Whether it is a part of a whole module that the calling thread runs, on the present stream.
  bool is_covered() {
    if (!whole.is_valid()) return false;
    Holding& outer = nb::inst_ptr<LeasedCall>(whole)->holding;
    if (!outer.any()) return false;
    if (std::exchange(last_called, outer.number) != outer.number) ++outer.parts_called;
    return core->residency().scratch_on_host() == 0 && outer.covers(stream());
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
  void end(const Ranges& touched, bool taken, Stream on) {
    std::exception_ptr failure;
    const auto attempt = [&](auto&& part) {
      try {
        part();
      } catch (...) {
        failure = std::current_exception();
      }
    };
    if (taken) attempt([&] { give(*core, touched, on, true); });
    attempt([&] { note_writes(); });
    attempt([&] { core->pointers().let_go(parts.pointers, on); });
    attempt([&] { release(*core, group, on); });
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
  Py_VISIT(call->stream.ask().ptr());
  for (const auto* each :
       {&call->begin_round, &call->activations, &call->scratch_grew, &call->whole}) {
    Py_VISIT(each->ptr());
  }
  for (const auto* several : {&call->versions.tensors(), &call->within}) {
    for (const nb::object& each : *several) Py_VISIT(each.ptr());
  }
  return 0;
}

int clear(PyObject* self) {
  auto* call = nb::inst_ptr<LeasedCall>(self);
  call->inner.clear();
  call->stream.clear();
  call->begin_round.reset();
  call->activations.reset();
  call->scratch_grew.reset();
  call->whole.reset();
  call->versions.clear();
  call->within.clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(call_leased)},   // NOLINT
                       {Py_tp_traverse, reinterpret_cast<void*>(traverse)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},        // NOLINT
                       {0, nullptr}};

}  // namespace

void call(nb::module_& module) {
  nb::class_<Nesting>(module, "Nesting",
                      "How many calls of one session's modules each thread is in.")
      .def(nb::new_([] { return std::make_shared<Nesting>(); }))
      .def("enter", &Nesting::enter, "Returns how many there were.")
      .def("leave", &Nesting::leave);

  nb::class_<LeasedCall>(
      module, "LeasedCall", nb::type_slots(slots),
      "Calls `inner` under a lease of a group, with a budget of `least_budget` bytes or "
      "more.\n\nIt is a module where `hooks` say where that has them.")
      .def(nb::new_([](std::shared_ptr<Core> core, std::shared_ptr<Nesting> nesting, GroupId group,
                       const Ranges& ranges, nb::object inner, nb::object hooks,
                       const PresentStream& stream, nb::object begin_round, nb::object activations,
                       nb::object scratch_grew, std::vector<nb::object> versioned,
                       bool always_written, Bytes least_budget) {
             Parts parts = parts_of(*core, ranges);
             return new LeasedCall{.inner = OwnCall(std::move(inner), std::move(hooks)),
                                   .stream = stream,
                                   .least_budget = least_budget,
                                   .core = std::move(core),
                                   .nesting = std::move(nesting),
                                   .group = group,
                                   .begin_round = std::move(begin_round),
                                   .activations = std::move(activations),
                                   .scratch_grew = std::move(scratch_grew),
                                   .versions = Versions(std::move(versioned)),
                                   .always_written = always_written,
                                   .parts = std::move(parts)};
           }),
           "core"_a, "nesting"_a, "group"_a, "ranges"_a, "inner"_a, "hooks"_a.none(), "stream"_a,
           "begin_round"_a, "activations"_a, "scratch_grew"_a, "versioned"_a, "always_written"_a,
           "least_budget"_a)
      .def_prop_ro(
          "loses_writes", [](const LeasedCall& call) { return !call.parts.others.empty(); },
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
      // Copies and pickles of the module do not carry it.
      .def(
          "__deepcopy__", [](const LeasedCall&, nb::handle) { return nb::none(); }, "memo"_a)
      .def(
          "__reduce__",
          [](const LeasedCall&) { return nb::make_tuple(nb::none().type(), nb::tuple()); },
          nb::sig("def __reduce__(self) -> tuple[type, tuple[()]]"));
}

}  // namespace vramx::bind
