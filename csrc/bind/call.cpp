// The call that takes the place of a module's own and leases what the module uses around it. A
// program may make thousands a pass, each beside work of a few microseconds, so it is native.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <exception>

#include "bind/bind.hpp"
#include "bind/leases.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

/// How many calls of one session's modules each thread is in.
class Nesting {
 public:
  /// Returns how many there were.
  unsigned enter() {
    auto& depths = Nesting::depths();
    const auto it = find(depths);
    if (it != depths.end()) return it->second++;
    depths.emplace_back(this, 1);
    return 0;
  }
  void leave() {
    auto& depths = Nesting::depths();
    const auto it = find(depths);
    if (it != depths.end() && --it->second == 0) depths.erase(it);
  }

 private:
  using Depths = std::vector<std::pair<const Nesting*, unsigned>>;

  static Depths& depths() {
    thread_local Depths depths;
    return depths;
  }
  Depths::iterator find(Depths& depths) const {
    return std::find_if(depths.begin(), depths.end(),
                        [this](const auto& each) { return each.first == this; });
  }
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

std::int64_t total_version(const std::vector<nb::object>& tensors) {
  static PyObject* const name = PyUnicode_InternFromString("_version");
  std::int64_t total = 0;
  for (const nb::object& tensor : tensors) {
    const nb::object version = nb::steal(PyObject_GetAttr(tensor.ptr(), name));
    if (!version.is_valid()) throw nb::python_error();
    total += PyLong_AsLongLong(version.ptr());
  }
  return total;
}

struct LeasedCall {
  std::shared_ptr<Core> core;
  std::shared_ptr<Nesting> nesting;
  GroupId group = 0;
  nb::object inner;
  nb::object stream;
  nb::object begin_round;
  nb::object activations;
  std::vector<nb::object> versioned;
  bool always_written = false;
  std::int64_t versions = 0;
  Parts parts{};

  void note_writes() {
    const std::int64_t now = total_version(versioned);
    const bool changed = now != versions;
    versions = now;
    if (changed) Pointers::written(parts.pointers);
    if ((!changed && !always_written) || parts.others.empty()) return;
    const nb::gil_scoped_release unlocked;
    core->residency().written(blocks_of(*core, parts.others));
  }

  nb::object call(nb::handle self, PyObject* args, PyObject* kwargs) {
    const Level level(*nesting);
    if (level.outermost()) begin_round(self);
    const auto on = nb::cast<Stream>(stream());
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
      result = nb::steal(PyObject_Call(inner.ptr(), args, kwargs));
      if (!result.is_valid()) throw nb::python_error();
    } catch (...) {
      end(touched, taken, on);
      throw;
    }
    end(touched, taken, on);
    return result;
  }

 private:
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
  for (const auto* each : {&call->inner, &call->stream, &call->begin_round, &call->activations}) {
    Py_VISIT(each->ptr());
  }
  for (const nb::object& each : call->versioned) Py_VISIT(each.ptr());
  return 0;
}

int clear(PyObject* self) {
  auto* call = nb::inst_ptr<LeasedCall>(self);
  call->inner.reset();
  call->stream.reset();
  call->begin_round.reset();
  call->activations.reset();
  call->versioned.clear();
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

  nb::class_<LeasedCall>(module, "LeasedCall", nb::type_slots(slots),
                         "Calls `inner` under a lease of a group.")
      .def(nb::new_([](std::shared_ptr<Core> core, std::shared_ptr<Nesting> nesting, GroupId group,
                       const Ranges& ranges, nb::object inner, nb::object stream,
                       nb::object begin_round, nb::object activations,
                       std::vector<nb::object> versioned, bool always_written) {
             const std::int64_t versions = total_version(versioned);
             Parts parts = parts_of(*core, ranges);
             return new LeasedCall{.core = std::move(core),
                                   .nesting = std::move(nesting),
                                   .group = group,
                                   .inner = std::move(inner),
                                   .stream = std::move(stream),
                                   .begin_round = std::move(begin_round),
                                   .activations = std::move(activations),
                                   .versioned = std::move(versioned),
                                   .always_written = always_written,
                                   .versions = versions,
                                   .parts = std::move(parts)};
           }),
           "core"_a, "nesting"_a, "group"_a, "ranges"_a, "inner"_a, "stream"_a, "begin_round"_a,
           "activations"_a, "versioned"_a, "always_written"_a)
      .def("note_writes", &LeasedCall::note_writes,
           "Reports versioned tensors that were changed in place since the last look.")
      // Copies and pickles of the module do not carry it.
      .def(
          "__deepcopy__", [](const LeasedCall&, nb::handle) { return nb::none(); }, "memo"_a)
      .def(
          "__reduce__",
          [](const LeasedCall&) { return nb::make_tuple(nb::none().type(), nb::tuple()); },
          nb::sig("def __reduce__(self) -> tuple[type, tuple[()]]"));

  module.def("total_version", &total_version, "tensors"_a,
             "How often tensors were changed in place: the same sum means that none was.");
}

}  // namespace vramx::bind
