#include "calls/leased_call.hpp"

#include <exception>
#include <utility>

#include "base/error.hpp"

namespace nb = nanobind;

namespace vramx::calls {

namespace {

/// A call within a context.
class Level {
 public:
  Level(Context& context, nb::handle called) : context_(context) { context_.enter(called); }
  ~Level() { context_.leave(); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Context& context_;
};

}  // namespace

LeasedCall::LeasedCall(std::shared_ptr<Context> context, nb::object unit, GroupId group,
                       OwnCall inner, Bytes least_budget)
    : inner_(std::move(inner)),
      context_(std::move(context)),
      least_budget_(least_budget),
      group_(group),
      unit_(std::move(unit)) {}

void LeasedCall::lease(const Ranges& ranges, const std::vector<Named>& dicts,
                       std::vector<nb::object> tensors, std::vector<nb::object> versioned,
                       bool always_written) {
  auto [pointers, others] = parts_of(core(), ranges);
  leased_ = Leased{.contents = Contents(dicts, std::move(tensors)),
                   .versions = Versions(std::move(versioned)),
                   .always_written = always_written,
                   .pointers = std::make_shared<const Pointers::Some>(std::move(pointers)),
                   .others = std::move(others)};
}

void LeasedCall::note_writes() {
  if (!leased_.versions.changed() && !leased_.always_written) return;
  if (!members_.empty()) {  // which know whose bytes changed
    for (const nb::object& member : members_) nb::inst_ptr<LeasedCall>(member)->note_writes();
    return;
  }
  storages_written(core(), *leased_.pointers);
  if (leased_.others.empty()) return;
  const nb::gil_scoped_release unlocked;
  core().residency().written(blocks_of(core(), leased_.others), Place::card);
}

void LeasedCall::fuse(nb::handle fused, nb::handle member) {
  nb::inst_ptr<LeasedCall>(member)->fused_ = nb::borrow(fused);
  nb::inst_ptr<LeasedCall>(fused)->members_.push_back(nb::borrow(member));
}

void LeasedCall::clear() {
  inner_.clear();
  unit_.reset();
  fused_.reset();
  leased_.contents.clear();
  leased_.versions.clear();
  members_.clear();
}

nb::object LeasedCall::operator()(PyObject* args, PyObject* kwargs) {
  if (member_by_member_ || core().residency().budget() < least_budget_ || is_covered()) {
    return inner_(args, kwargs);
  }
  if (capturing) {
    throw Captured(
        "a managed module cannot be captured in a CUDA graph: its weights lie elsewhere when that "
        "is replayed. Unmanage it before, or run it without a graph");
  }
  const Level level(*context_, unit_);
  const Program& program = context_->program;
  if (leased_.contents.changed()) program.contents_changed(unit_);
  if (core().scratch().grew()) program.scratch_grew();
  const Stream on = context_->stream();
  Ranges activations;
  if (core().residency().scratch_on_host() > 0) {
    activations = program.activations(args, kwargs);
  }
  // What was written since the last call was written to the host copies.
  context_->look_at_aliases();
  if (!leased_.pointers->empty()) note_writes();
  const std::shared_ptr<const Pointers::Some> pointers = leased_.pointers;
  const bool on_card = acquire(core(), group_, on);
  try {
    hold(core(), *pointers, on, on_card);
  } catch (...) {
    release(core(), group_, on);
    throw;
  }
  nb::object result;
  bool taken = false;
  try {
    if (!activations.empty()) {
      take(core(), activations, on, true);
      taken = true;
    }
    result = members_.empty() ? inner_(args, kwargs) : call_fused(args, kwargs, on);
  } catch (...) {
    end(*pointers, activations, taken, on);
    throw;
  }
  end(*pointers, activations, taken, on);
  return result;
}

/// Whether it is a member of a fused unit whose call the calling thread is in, on the present
/// stream.
bool LeasedCall::is_covered() {
  if (!fused_.is_valid()) return false;
  Holding& outer = nb::inst_ptr<LeasedCall>(fused_)->holding_;
  if (!outer.any()) return false;
  if (std::exchange(last_called_, outer.number) != outer.number) ++outer.members_called;
  return core().residency().scratch_on_host() == 0 && outer.covers(context_->stream());
}

/// Calls it for members that need no lease meanwhile.
nb::object LeasedCall::call_fused(PyObject* args, PyObject* kwargs, Stream on) {
  if (!holding_.enter(on)) return inner_(args, kwargs);
  struct Leave {
    Holding& holding;
    ~Leave() { holding.leave(); }
  } const leave{holding_};
  nb::object result = inner_(args, kwargs);
  // Of what chooses among its members, as a router among experts, only the chosen need be fetched.
  member_by_member_ = holding_.outermost() && holding_.members_called < members_.size();
  return result;
}

/// All of it, whatever part fails.
void LeasedCall::end(const Pointers::Some& pointers, const Ranges& activations, bool taken,
                     Stream on) {
  std::exception_ptr failure;
  const auto attempt = [&](auto&& part) {
    try {
      part();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  if (taken) attempt([&] { give(core(), activations, on, true); });
  if (leased_.contents.moved()) attempt([&] { context_->program.storage_replaced(unit_); });
  attempt([&] { context_->look_at_aliases(); });
  attempt([&] { note_writes(); });
  attempt([&] { core().pointers().let_go(pointers, on); });
  attempt([&] { release(core(), group_, on); });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace vramx::calls
