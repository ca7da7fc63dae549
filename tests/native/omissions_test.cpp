// What is left out shows: whoever forgets a wait, a copy or a fence has wrong bytes or too many.
//
// A program with kernels on two streams uses weights at random, under leases that overlap and
// without any, and orders its own streams alone. All the rest is up to the core, whose device
// forgets one kind of thing.
#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "check.hpp"
#include "core/core.hpp"
#include "over_simulated.hpp"

using namespace vramx;

namespace {

constexpr Bytes block = 4 * KiB;
constexpr Bytes budget = 3 * block;
constexpr std::size_t weights = 6;
constexpr Stream streams = 2;

enum class Omits : std::uint8_t { nothing, stream_wait, room, last_use, refresh, save };

class Forgetful final : public OverSimulated {
 public:
  Forgetful(const SimulatedSpec& spec, Omits omits) : OverSimulated(spec), omits_(omits) {
    facts_ = card().facts();
    facts_.lanes = 2;
  }

  const Facts& facts() const override { return facts_; }
  Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override {
    return OverSimulated::fetch(range, how, lane, omits_ == Omits::room ? Fences{} : after);
  }
  Fence evict(Range range, EvictMode how, Lane lane, Fences after) override {
    return OverSimulated::evict(range, how, lane, omits_ == Omits::last_use ? Fences{} : after);
  }
  void order(Stream stream, const Fence& fence) override {
    if (omits_ != Omits::stream_wait) OverSimulated::order(stream, fence);
  }
  void refresh(Stream stream, Range range) override {
    if (omits_ != Omits::refresh) OverSimulated::refresh(stream, range);
  }
  void save(Stream stream, Range range) override {
    if (omits_ != Omits::save) OverSimulated::save(stream, range);
  }

 private:
  Omits omits_;
  Facts facts_;
};

SimulatedSpec card(Moments moments, bool host_addresses) {
  SimulatedSpec spec;
  spec.capacity = 2 * weights * block;
  spec.granule = block;
  spec.lanes = 64;
  spec.host_addresses = host_addresses;
  spec.moments = moments;
  return spec;
}

/// A weight, and a storage of a framework's that points at one of its copies.
struct Weight {
  std::shared_ptr<Memory> memory;
  std::array<Address, 6> storage{};
  unsigned char value = 0;
  std::array<bool, streams> used_on{};  ///< since the program last ordered them

  Range card() const { return memory->range(); }
  Range present() const { return {storage[0], block}; }
};

class Program {
 public:
  Program(Omits omits, Moments moments, bool host_addresses)
      : device_(std::make_shared<Forgetful>(card(moments, host_addresses), omits)),
        core_(std::make_shared<Core>(
            device_, Settings{.budget = budget, .block = block, .threaded = false},
            [](const View& view) { return make_strategy("adaptive", view); })),
        random_(moments.seed),
        all_(weights),
        pointed_(host_addresses) {
    const auto memories = core_->reserve(std::vector<Bytes>(weights, block), Purpose::weights);
    for (std::size_t i = 0; i < weights; ++i) {
      all_[i].memory = memories[i];
      all_[i].storage[0] = all_[i].card().start;
      const std::vector<unsigned char> zeros(block, 0);
      device_->store(all_[i].card().start, zeros.data(), block);
      core_->pointers().add(reinterpret_cast<Address>(&all_[i].storage), all_[i].card());  // NOLINT
    }
  }
  ~Program() {
    for (const Weight& weight : all_) core_->pointers().forget(weight.card());
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void run(unsigned steps) {
    for (unsigned step = 0; step < steps; ++step) {
      if (random_() % 8 == 0) move_some();
      Weight& weight = all_[random_() % weights];
      const Stream stream = random_() % streams;
      order(weight, stream);
      if (pointed_ && random_() % 4 == 0) {
        use(weight, stream);  // in place on the host
        continue;
      }
      const Stream outer = random_() % streams;
      const bool nested = random_() % 3 == 0;
      if (nested) {
        order(weight, outer);
        lease(weight, outer);
        order(weight, stream);
      }
      lease(weight, stream);
      use(weight, stream);
      unlease(weight, stream);
      if (nested) unlease(weight, outer);
    }
    device_->card().synchronize();
    for (const Weight& weight : all_) {
      std::vector<unsigned char> bytes(block);
      core_->load(
          {{weight.card().start, reinterpret_cast<Address>(bytes.data()), block}});  // NOLINT
      if (bytes != std::vector<unsigned char>(block, weight.value)) wrong_ = true;
    }
  }

  /// Whether a byte was wrong, or there were too many on the card.
  bool fails() const { return wrong_ || device_->card().peak_on_card() > budget; }

 private:
  Blocks blocks(const Weight& weight) { return core_->residency().blocks_of(weight.card()); }

  /// Makes room, and fetches more than one a lane into it.
  void move_some() {
    Blocks every;
    for (const Weight& weight : all_) every.push_back(blocks(weight).front());
    core_->residency().evict(every, nullptr);
    std::shuffle(every.begin(), every.end(), random_);
    core_->residency().prefetch({every.begin(), every.begin() + budget / block});
  }

  void lease(const Weight& weight, Stream stream) {
    core_->residency().take(blocks(weight), stream, true, nullptr);
    core_->pointers().hold(core_->pointers().of(weight.card()), {}, stream);
  }
  void unlease(const Weight& weight, Stream stream) {
    core_->pointers().let_go(core_->pointers().of(weight.card()), stream);
    core_->residency().give(blocks(weight), stream, true);
  }

  /// The program's own order: what it gave to other streams with this weight comes first.
  void order(Weight& weight, Stream stream) {
    SimulatedDevice& card = device_->card();
    for (Stream other = 0; other < streams; ++other) {
      if (other == stream || !weight.used_on[other]) continue;
      card.order(stream, card.mark(other));
      weight.used_on[other] = false;
    }
    weight.used_on[stream] = true;
  }

  void use(Weight& weight, Stream stream) {
    SimulatedDevice& card = device_->card();
    const Range at = weight.present();
    card.launch(stream, at, [this, at, value = weight.value] {
      const auto* bytes = static_cast<const unsigned char*>(at.data());
      if (std::any_of(bytes, bytes + block, [&](unsigned char b) { return b != value; })) {
        wrong_ = true;
      }
    });
    if (random_() % 3 != 0) return;
    weight.value = static_cast<unsigned char>((weight.value + 1) % 100);
    card.launch(stream, at, [at, value = weight.value] { std::memset(at.data(), value, block); });
    const auto pointers = core_->pointers().of(weight.card());
    Pointers::written(pointers);
    if (pointers.empty()) core_->residency().written(blocks(weight), Place::card);
  }

  std::shared_ptr<Forgetful> device_;
  std::shared_ptr<Core> core_;
  std::mt19937_64 random_;
  std::vector<Weight> all_;
  bool pointed_;
  bool wrong_ = false;
};

/// How many of some programs fail.
unsigned failing(Omits omits, Moment when, bool host_addresses, std::uint64_t first_seed = 1) {
  unsigned count = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + 40; ++seed) {
    Program program(omits, {.when = when, .seed = seed}, host_addresses);
    program.run(60);
    count += program.fails() ? 1 : 0;
  }
  return count;
}

}  // namespace

TEST("nothing fails where nothing is left out, at whatever moments") {
  for (const bool host_addresses : {false, true}) {
    for (const Moment when : {Moment::earliest, Moment::latest, Moment::random}) {
      REQUIRE(failing(Omits::nothing, when, host_addresses) == 0);
      const std::uint64_t chosen = default_moments().seed * 100;
      REQUIRE(failing(Omits::nothing, when, host_addresses, chosen) == 0);
    }
  }
}

TEST("a stream's wait that is left out shows") {
  for (const bool host_addresses : {false, true}) {
    REQUIRE(failing(Omits::stream_wait, Moment::random, host_addresses) > 0);
    REQUIRE(failing(Omits::stream_wait, Moment::latest, host_addresses) > 0);
  }
}

TEST("an arrival that does not wait for its room shows") {
  REQUIRE(failing(Omits::room, Moment::random, true) > 0);
}

TEST("an eviction that does not wait for the last use shows") {
  for (const bool host_addresses : {false, true}) {
    REQUIRE(failing(Omits::last_use, Moment::random, host_addresses) > 0);
    REQUIRE(failing(Omits::last_use, Moment::latest, host_addresses) > 0);
  }
}

TEST("a card's copy that is not refreshed shows at any moments") {
  for (const Moment when : {Moment::earliest, Moment::latest, Moment::random}) {
    REQUIRE(failing(Omits::refresh, when, true) > 0);
  }
}

TEST("a host's copy that is not saved shows at any moments") {
  for (const Moment when : {Moment::earliest, Moment::latest, Moment::random}) {
    REQUIRE(failing(Omits::save, when, true) > 0);
  }
}
