// Streams: work in order, at a moment that what it waits for allows.
#include <cstdlib>
#include <string>

#include "state.hpp"

namespace loopback {

namespace {

bool may_run(const Stream& stream) {
  if (stream.held || stream.queue.empty()) return false;
  const Work& next = stream.queue.front();
  return !next.after || next.after->reached;
}

void run_next(Stream& stream) {
  const Work next = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (next.run) next.run();
}

}  // namespace

State::State() {
  streams[0].programs = true;
  const char* told = std::getenv("VRAMX_TEST_SEED");
  const std::string seed = told != nullptr ? told : "1";
  if (seed == "earliest") return;
  moment = seed == "latest" ? Moment::latest : Moment::random;
  if (moment == Moment::random) random.seed(std::stoull(seed));
}

void State::submit(std::uintptr_t stream, Work work) {
  Stream& to = streams[stream];
  const bool at_once = to.programs && to.queue.empty();
  to.queue.push_back(std::move(work));
  if (at_once) finish(stream);
  advance();
}

void State::launch(std::uintptr_t stream, Work work) {
  streams[stream].queue.push_back(std::move(work));
  advance();
}

void State::advance() {
  if (moment == Moment::earliest) return finish();
  if (moment == Moment::random) {
    std::vector<Stream*> ready;
    while (random() % 2 == 0) {
      ready.clear();
      for (auto& [handle, stream] : streams) {
        if (may_run(stream)) ready.push_back(&stream);
      }
      if (ready.empty()) break;
      run_next(*ready[random() % ready.size()]);
    }
  }
  progressed.notify_all();
}

bool State::reach(const Point& point) {
  while (!point.reached) {
    const auto it = streams.find(point.stream);
    if (it == streams.end() || it->second.held || it->second.queue.empty()) return false;
    const auto after = it->second.queue.front().after;
    if (after && !reach(*after)) return false;
    run_next(it->second);
    progressed.notify_all();
  }
  return true;
}

bool State::finish(std::uintptr_t stream) {
  Stream& all = streams[stream];
  while (!all.queue.empty()) {
    const auto after = all.queue.front().after;
    if (all.held || (after && !reach(*after))) return false;
    run_next(all);
    progressed.notify_all();
  }
  return true;
}

void State::finish() {
  for (auto& [handle, stream] : streams) finish(handle);
  progressed.notify_all();
}

std::shared_ptr<Point> State::end_of(std::uintptr_t stream) {
  auto point = std::make_shared<Point>(Point{.stream = stream});
  submit(stream, {.after = nullptr, .run = [point] { point->reached = true; }});
  return point;
}

bool State::named_by_work(std::uintptr_t address, std::uint64_t size) const {
  for (const auto& [handle, stream] : streams) {
    for (const Work& work : stream.queue) {
      for (const Bytes& named : work.names) {
        if (named.address < address + size && address < named.address + named.size) return true;
      }
    }
  }
  return false;
}

}  // namespace loopback
