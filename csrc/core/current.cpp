#include "core/current.hpp"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "base/error.hpp"

namespace vramx {

namespace {

thread_local std::vector<std::shared_ptr<Core>> entered;
thread_local std::string failure;

/// Live allocations keep their core. Never destroyed: frameworks free at process exit.
struct Served {
  std::mutex mutex;
  std::shared_ptr<Core> process;
  std::unordered_map<Address, std::shared_ptr<Core>> live;
};

Served& served() {
  static auto* one = new Served;
  return *one;
}

/// The core that serves the calling thread; null for none.
std::shared_ptr<Core> serving() {
  if (!entered.empty()) return entered.back();
  const std::lock_guard lock(served().mutex);
  return served().process;
}

}  // namespace

void enter(std::shared_ptr<Core> core) { entered.push_back(std::move(core)); }

void leave(const Core& core) {
  const auto it = std::find_if(entered.rbegin(), entered.rend(),
                               [&](const auto& each) { return each.get() == &core; });
  if (it != entered.rend()) entered.erase(std::prev(it.base()));
}

std::shared_ptr<Core> set_process_core(std::shared_ptr<Core> core) {
  const std::lock_guard lock(served().mutex);
  return std::exchange(served().process, std::move(core));
}

Address allocate(Bytes size, Stream stream) {
  std::shared_ptr<Core> core = serving();
  if (!core) {
    throw NotOpen(
        "vramx's allocator was called on a thread that is in no session; enter one on this "
        "thread with session.route()");
  }
  const Range range = core->scratch().allocate(size, stream, nullptr);
  const std::lock_guard lock(served().mutex);
  served().live[range.start] = std::move(core);
  return range.start;
}

void free(Address address) noexcept {
  std::shared_ptr<Core> core;
  {
    const std::lock_guard lock(served().mutex);
    const auto it = served().live.find(address);
    if (it == served().live.end()) return;
    core = std::move(it->second);
    served().live.erase(it);
  }
  core->free(address);
}

void record(Address address, Stream stream) {
  std::shared_ptr<Core> core;
  {
    const std::lock_guard lock(served().mutex);
    const auto it = served().live.find(address);
    if (it == served().live.end()) return;
    core = it->second;
  }
  core->scratch().record(address, stream);
}

void trim() {
  if (const std::shared_ptr<Core> core = serving()) core->scratch().trim();
}

std::string& last_failure() { return failure; }

}  // namespace vramx
