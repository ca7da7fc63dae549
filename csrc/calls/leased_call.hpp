// The call that takes the place of a module's own and leases what the module uses around it.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "calls/contents.hpp"
#include "calls/context.hpp"
#include "calls/holding.hpp"
#include "calls/leases.hpp"
#include "calls/own_call.hpp"
#include "calls/versions.hpp"

namespace vramx::calls {

/// A program may make thousands a pass, each beside work of a few microseconds. Under the
/// interpreter's lock.
class LeasedCall {
 public:
  /// Calls `inner` under a lease of a group, with a budget of `least_budget` or more. `unit` is
  /// what the program is told of.
  LeasedCall(std::shared_ptr<Context> context, nanobind::object unit, GroupId group, OwnCall inner,
             Bytes least_budget);

  nanobind::object operator()(PyObject* args, PyObject* kwargs);

  /// Says what its group is: ranges, what the module holds, and the tensors that count.
  void lease(const Ranges& ranges, const std::vector<Named>& dicts,
             std::vector<nanobind::object> tensors, std::vector<nanobind::object> versioned,
             bool always_written);
  bool always_written() const { return leased_.always_written; }
  void always_written(bool is) { leased_.always_written = is; }
  /// Whether the module does not hold what is leased.
  bool changed() const { return leased_.contents.changed(); }
  /// Whether what was written between its calls is lost where it leaves the card unnoted.
  bool loses_writes() const { return !leased_.others.empty(); }
  /// Reports versioned tensors that were changed in place since the last look.
  void note_writes();

  /// A member leases nothing while a call of its fused unit holds a lease. Both are of this class.
  static void fuse(nanobind::handle fused, nanobind::handle member);

  /// For the collector of garbage.
  template <class Visit>
  int each_object(Visit&& visit) const;
  void clear();

 private:
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

  Core& core() const { return *context_->core; }
  bool is_covered();
  nanobind::object call_fused(PyObject* args, PyObject* kwargs, Stream on);
  void end(const Pointers::Some& pointers, const Ranges& activations, bool taken, Stream on);

  // What a covered call reads comes first: there are many such calls, whose lines of memory the
  // program's own work has put out of the cache.
  OwnCall inner_;
  std::shared_ptr<Context> context_;
  nanobind::object fused_{};  ///< the call of the fused unit that it is a member of, or null
  Bytes least_budget_;
  std::uint64_t last_called_ = 0;  ///< the number of the fused unit's call it was last called in
  bool member_by_member_ = false;  ///< a call of it did without some of its members
  Holding holding_{};
  GroupId group_;
  nanobind::object unit_;
  Leased leased_{};
  std::vector<nanobind::object> members_{};  ///< the calls of those
};

template <class Visit>
int LeasedCall::each_object(Visit&& visit) const {
  for (const nanobind::object* each : {&inner_.callee(), &unit_, &fused_}) {
    if (const int stop = visit(each->ptr())) return stop;
  }
  for (const nanobind::object& each : members_) {
    if (const int stop = visit(each.ptr())) return stop;
  }
  if (const int stop = leased_.versions.each_object(visit)) return stop;
  return leased_.contents.each_object(visit);
}

}  // namespace vramx::calls
