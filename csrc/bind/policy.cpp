#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <utility>

#include "base/error.hpp"
#include "bind/bind.hpp"
#include "strategy/strategy.hpp"

namespace nb = nanobind;

namespace vramx::bind {

namespace {

/// The interpreter's lock, without collections of garbage: what those let go of may be memory,
/// which wants the lock that the caller holds.
class Interpreter {
 public:
  Interpreter() : collected_(PyGC_Disable()) {}
  ~Interpreter() {
    if (collected_ != 0) PyGC_Enable();
  }
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

 private:
  nb::gil_scoped_acquire gil_;
  int collected_;
};

/// A policy written in Python. Called from any thread, without the interpreter's lock.
class PythonPolicy final : public Strategy {
 public:
  explicit PythonPolicy(nb::object policy) : policy_(std::move(policy)) {}
  ~PythonPolicy() override {
    const nb::gil_scoped_acquire gil;
    policy_.reset();
    failure_ = nullptr;
  }

  void fetched(BlockId block) override { tell("fetched", block); }
  void leased(BlockId block) override { tell("leased", block); }
  void evicted(BlockId block) override { tell("evicted", block); }

  std::optional<BlockId> victim(const Evictable& evictable) const override {
    const Interpreter interpreter;
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    const nb::object chosen = policy_.attr("victim")(
        nb::cpp_function([&evictable](BlockId block) { return evictable(block); }));
    if (chosen.is_none()) return std::nullopt;
    BlockId block = 0;
    if (!nb::try_cast(chosen, block, false)) {
      throw Error(std::string("the policy chose ") + nb::repr(chosen).c_str() +
                  "; victim(evictable) returns the number of a block, or None");
    }
    return block;
  }

 private:
  // What is told has happened and cannot fail: what the policy raises is raised when it is next
  // asked.
  void tell(const char* what, BlockId block) {
    const Interpreter interpreter;
    try {
      policy_.attr(what)(block);
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  nb::object policy_;
  mutable std::exception_ptr failure_;
};

}  // namespace

MakeStrategy policy_from(nb::object given) {
  if (nb::isinstance<nb::str>(given)) {
    return [name = nb::cast<std::string>(given)](const View& view) {
      return make_strategy(name, view);
    };
  }
  for (const char* method : {"fetched", "leased", "evicted", "victim"}) {
    if (!nb::hasattr(given, method)) {
      throw BadConfig(std::string("a policy object has the methods fetched, leased, evicted and "
                                  "victim; this one has no ") +
                      method);
    }
  }
  return [given](const View&) -> std::unique_ptr<Strategy> {
    return std::make_unique<PythonPolicy>(given);
  };
}

void policy(nb::module_& module) {
  module.def("policy_names", &strategy_names, "The names of the native policies, sorted.");
}

}  // namespace vramx::bind
