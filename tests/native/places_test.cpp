// A place below the host: a store and a route of which the residency knows nothing else.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "below_host.hpp"
#include "check.hpp"
#include "core/core.hpp"
#include "world.hpp"

using namespace vramx;

namespace {

constexpr Bytes block = 64 * KiB;
constexpr std::size_t layers = 12;
constexpr Bytes on_host = layers / 3 * block;
constexpr Stream stream = 1;

struct Setting {
  std::string policy = "adaptive";
  Bytes budget = 3 * block;
  bool threaded = false;
  bool host_addresses = false;
  Moments moments = {};
};

/// Layers of a block each that are used in a cycle, with a host for a third of them.
class Model {
 public:
  explicit Model(const Setting& setting)
      : device_(std::make_shared<BelowHost>(SimulatedSpec{.capacity = layers * block,
                                                          .granule = block,
                                                          .host_addresses = setting.host_addresses,
                                                          .moments = setting.moments})),
        core_(std::make_shared<Core>(
            device_,
            Settings{.budget = setting.budget,
                     .block = block,
                     .host_limit = on_host,
                     .threaded = setting.threaded},
            [&](const View& view) { return make_strategy(setting.policy, view); })),
        budget_(setting.budget),
        memories_(core_->reserve(std::vector<Bytes>(layers, block), Purpose::weights)) {
    for (std::size_t i = 0; i < layers; ++i) {
      values_.push_back(static_cast<unsigned char>(i + 1));
      const std::vector<unsigned char> bytes(block, values_[i]);
      core_->store({{at(i).start, reinterpret_cast<Address>(bytes.data()), block}});  // NOLINT
      groups_.push_back(core_->residency().define(blocks(i)));
    }
  }

  unsigned pass(std::mt19937& random) {
    return pass([&](std::size_t /*layer*/) { return random() % 4 == 0; });
  }
  /// Uses each layer and writes some. Returns how many could not be had.
  unsigned pass(const std::function<bool(std::size_t)>& writes = [](std::size_t) {
    return false;
  }) {
    unsigned failed = 0;
    for (std::size_t i = 0; i < layers; ++i) {
      try {
        core_->residency().acquire(groups_[i], stream, nullptr);
      } catch (const DeviceFailure&) {
        ++failed;
        continue;
      }
      device_->card().launch(stream, at(i), [this, i, value = values_[i]] {
        const auto* bytes = static_cast<const unsigned char*>(at(i).data());
        wrong_ = wrong_ || std::any_of(bytes, bytes + block,
                                       [&](unsigned char byte) { return byte != value; });
      });
      if (writes(i)) {
        values_[i] = static_cast<unsigned char>(values_[i] % 200 + 1);
        device_->card().launch(stream, at(i), [this, i, value = values_[i]] {
          std::memset(at(i).data(), value, block);
        });
        core_->residency().written(blocks(i), Place::card);
      }
      core_->residency().release(groups_[i], stream);
    }
    return failed;
  }

  /// A write by the processor where a layer lies on the host.
  void write_on_host(std::size_t layer) {
    values_[layer] = static_cast<unsigned char>(values_[layer] % 200 + 1);
    core_->residency().take(blocks(layer), stream, true, nullptr);
    core_->residency().give(blocks(layer), stream, true);
    core_->residency().evict(blocks(layer), nullptr);
    device_->card().synchronize();
    std::memset(Range{device_->host_address(at(layer).start), 0}.data(), values_[layer], block);
  }

  /// Whether every byte that was read was right, and is, within what each place may hold.
  bool right() {
    device_->card().synchronize();
    for (std::size_t i = 0; i < layers; ++i) {
      std::vector<unsigned char> bytes(block);
      core_->load({{at(i).start, reinterpret_cast<Address>(bytes.data()), block}});  // NOLINT
      wrong_ = wrong_ || bytes != std::vector<unsigned char>(block, values_[i]);
    }
    return !wrong_ && device_->peak_on_host() <= on_host &&
           device_->card().peak_on_card() <= budget_;
  }

  BelowHost& device() { return *device_; }
  Residency& residency() { return core_->residency(); }
  Blocks blocks(std::size_t layer) { return core_->residency().blocks_of(at(layer)); }
  Range at(std::size_t layer) const { return memories_[layer]->range(); }
  unsigned char value(std::size_t layer) const { return values_[layer]; }
  void close() { core_->close(nullptr); }

 private:
  std::shared_ptr<BelowHost> device_;
  std::shared_ptr<Core> core_;
  Bytes budget_;
  std::vector<std::shared_ptr<Memory>> memories_;
  std::vector<unsigned char> values_;
  std::vector<GroupId> groups_;
  std::atomic<bool> wrong_ = false;
};

template <class Test>
void on_each_setting(const Test& test) {
  for (const char* policy : {"adaptive", "clairvoyant", "lru", "mru"}) {
    for (const Bytes budget : {block, 3 * block, on_host}) {
      for (const bool threaded : {false, true}) {
        for (const bool host_addresses : {false, true}) {
          for (const Moment when : {Moment::earliest, Moment::latest, Moment::random}) {
            test(Setting{policy, budget, threaded, host_addresses, {when, 7}});
          }
        }
      }
    }
  }
}

}  // namespace

TEST("a model of which a third fits the host has its own bytes at every use") {
  on_each_setting([](const Setting& setting) {
    Model model(setting);
    std::mt19937 random(1);
    for (int pass = 0; pass < 6; ++pass) REQUIRE(model.pass(random) == 0);
    REQUIRE(model.right());
  });
}

TEST("moves below the host that fail lose nothing") {
  on_each_setting([](const Setting& setting) {
    Model model(setting);
    std::mt19937 random(2);
    model.device().fail_every(5);
    unsigned failed = 0;
    for (int pass = 0; pass < 6; ++pass) failed += model.pass(random);
    REQUIRE(failed > 0);
    model.device().fail_every(0);
    model.pass(random);  // which may still meet what failed ahead of it
    REQUIRE(model.pass(random) == 0);
    REQUIRE(model.right());
  });
}

TEST("a use over the link waits for the host copy, and what is told to stay there comes so far") {
  Model model({});
  model.residency().advise(model.blocks(2), Advice::preferred_host, nullptr);
  std::mt19937 random(3);
  for (int pass = 0; pass < 3; ++pass) REQUIRE(model.pass(random) == 0);
  REQUIRE(!model.residency().on_card(model.blocks(2)));
  REQUIRE(model.right());
}

TEST("what the program writes at a host copy's own address falls with it") {
  Model model({.budget = block, .host_addresses = true});
  std::mt19937 random(6);
  for (std::size_t i = 0; i < layers; ++i) {
    REQUIRE(model.pass(random) == 0);
    model.write_on_host(i);
  }
  REQUIRE(model.pass(random) == 0);
  REQUIRE(model.right());
}

TEST("what is not newer falls without a copy, and what is, with one") {
  Model model({});
  for (int pass = 0; pass < 3; ++pass) model.pass();
  const Bytes before = model.device().written_back();
  for (int pass = 0; pass < 3; ++pass) model.pass();
  REQUIRE(model.device().written_back() == before);
  model.pass([](std::size_t layer) { return layer == 5; });
  for (int pass = 0; pass < 3; ++pass) model.pass();
  REQUIRE(model.device().written_back() == before + block);
  REQUIRE(model.right());
}

TEST("what falls on at once has waited for its uses already") {
  Model model({.policy = "lru", .budget = on_host});
  for (int pass = 0; pass < 3; ++pass) model.pass([](std::size_t) { return true; });
  REQUIRE(model.device().written_back() > 0);
  REQUIRE(model.device().waits() == 0);
  REQUIRE(model.right());
}

TEST("moves below the host are counted, and told by a trace") {
  on_each_setting([](const Setting& setting) {
    Model model(setting);
    std::mt19937 random(8);
    const Bytes raised = model.device().read();
    const Bytes lowered = model.device().written_back();
    model.residency().begin_trace(stream, 1 << 16);
    for (int pass = 0; pass < 4; ++pass) model.pass(random);
    const Log log = model.residency().end_trace(nullptr);
    std::map<Event::Kind, Bytes> told;
    for (const Event& event : log.events) {
      if (event.how != std::string("drop")) told[event.kind] += event.bytes;
      if (event.kind == Event::Kind::lowered) REQUIRE(event.ended >= event.submitted);
    }
    const Stats stats = model.residency().stats();
    REQUIRE(told[Event::Kind::raised] == model.device().read() - raised);
    REQUIRE(told[Event::Kind::lowered] == model.device().written_back() - lowered);
    REQUIRE(stats.raised == model.device().read() && stats.lowered > 0);
    REQUIRE(stats.lowered == model.device().written_back());
    REQUIRE(model.right());
  });
}

TEST("a use that is larger than the host is refused by name, and the next is right") {
  Model model({});
  Blocks all;
  for (std::size_t i = 0; i < layers; ++i) all.push_back(model.blocks(i).front());
  REQUIRE_THROWS(OutOfMemory, model.residency().take(all, stream, true, nullptr));
  std::mt19937 random(4);
  REQUIRE(model.pass(random) == 0);
  REQUIRE(model.right());
}

TEST("threads wait for each other's room on the host") {
  Model model({.budget = 2 * on_host, .threaded = true});
  const auto uses_of = [&](std::size_t first) {
    return [&model, first] {
      Blocks mine;
      for (std::size_t i = first; i < first + 3; ++i) mine.push_back(model.blocks(i).front());
      for (int use = 0; use < 100; ++use) {
        model.residency().take(mine, first, true, nullptr);
        model.residency().give(mine, first, true);
      }
    };
  };
  std::vector<std::unique_ptr<Thread>> threads;
  for (std::size_t first = 0; first < layers; first += 3) {
    threads.push_back(std::make_unique<Thread>(uses_of(first)));
  }
  for (const auto& thread : threads) thread->join();
  REQUIRE(model.right());
}

TEST("after the end every byte is on the host") {
  for (const bool host_addresses : {false, true}) {
    Model model({.host_addresses = host_addresses});
    std::mt19937 random(5);
    REQUIRE(model.pass(random) == 0);
    model.device().card().synchronize();
    model.close();
    for (std::size_t i = 0; i < layers; ++i) {
      std::vector<unsigned char> bytes(block);
      model.device().load(bytes.data(), model.at(i).start, block);
      if (model.device().card().holds(model.at(i))) continue;  // newer there
      REQUIRE(bytes == std::vector<unsigned char>(block, model.value(i)));
    }
  }
}
