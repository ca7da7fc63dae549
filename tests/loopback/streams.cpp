// Streams: work in order, as soon as what it waits for is reached.
#include "state.hpp"

namespace loopback {

void State::submit(std::uintptr_t stream, Work work) {
  streams[stream].queue.push_back(std::move(work));
  advance();
}

void State::advance() {
  for (bool moved = true; moved;) {
    moved = false;
    for (auto& [handle, stream] : streams) {
      while (!stream.held && !stream.queue.empty()) {
        Work& next = stream.queue.front();
        if (next.after && !next.after->reached) break;
        if (next.run) next.run();
        stream.queue.pop_front();
        moved = true;
      }
    }
  }
  progressed.notify_all();
}

std::shared_ptr<Point> State::end_of(std::uintptr_t stream) {
  auto point = std::make_shared<Point>();
  submit(stream, {.after = nullptr, .run = [point] { point->reached = true; }});
  return point;
}

bool State::named_by_work(std::uintptr_t address, std::uint64_t size) const {
  for (const auto& [handle, stream] : streams) {
    for (const Work& work : stream.queue) {
      for (const std::uintptr_t named : {work.address, work.also}) {
        if (named != 0 && named < address + size && address < named + work.size) return true;
      }
    }
  }
  return false;
}

}  // namespace loopback
