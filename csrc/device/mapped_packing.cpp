#include "device/mapped_packing.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "forms/host_codec.hpp"

namespace vramx {

namespace {

/// What does not pay is raw in the packed form too, so that no block takes more than this.
constexpr Bytes most_packed(Bytes unit) { return unit + unit / 16; }
constexpr std::size_t times_measured = 5;
/// What packed copies take of their raw bytes, by a guess that is seldom too small.
constexpr Bytes guessed(Bytes raw) { return raw - raw * 3 / 10; }
/// A copy lies in one chunk, so that larger ones waste less, and smaller ones are given back
/// sooner.
constexpr Bytes most_of_a_chunk = 512 * MiB;

/// What a stream was given is done with by the end of a scope, thrown or not.
struct Finished {
  const Driver& cuda;
  CUstream stream;
  ~Finished() { cuda.stream_wait(stream); }
};

}  // namespace

MappedPacking::MappedPacking(MappedStore& store, Bytes unit)
    : store_(store),
      unit_(unit),
      context_(store.card()->context()),
      unpacks_(std::make_unique<CudaLanes>(context_, 1, true)),
      staging_(store.card()->facts().lanes) {}

MappedPacking::~MappedPacking() {
  context_->give_back([&] {
    staging_.clear();
    packed_.clear();
    shelves_.clear();
    codec_.reset();
    any_damaged_.reset();
  });
}

CardCodec& MappedPacking::codec() {
  const std::lock_guard lock(mutex_);
  if (!any_damaged_) {
    any_damaged_ = std::make_unique<HostCopy>(context_->driver, sizeof(std::uint32_t), true);
  }
  if (!codec_) codec_ = std::make_unique<CardCodec>(context_);
  return *codec_;
}

Bytes MappedPacking::scratch(Bytes piece) const {
  const Bytes granule = store_.traits().granule;
  return round_up(piece, granule) + round_up(most_packed(piece), granule) +
         round_up(CardCodec::scratch_bytes(piece), granule);
}

MappedPacking::Workplace::Workplace(MappedStore& store, Bytes unit)
    : raw(store, unit),
      packed(store, most_packed(unit)),
      verified(store, CardCodec::scratch_bytes(unit)) {}

std::shared_ptr<MappedPacking::Chunk> MappedPacking::make_chunk(Bytes size) const {
  size = round_up(size, store_.traits().granule);
  return std::shared_ptr<Chunk>(new Chunk{.memory = {context_->driver, size, true}, .size = size});
}

void MappedPacking::begin(Bytes raw) {
  const std::lock_guard lock(packing_);
  const Current here = context_->current();
  if (!workplace_) workplace_.emplace(store_, unit_);
  ++begun_;
  expected_ += raw;
}

void MappedPacking::end() noexcept {
  const std::lock_guard lock(packing_);
  if (--begun_ > 0) return;
  context_->give_back([&] {
    if (next_chunk_.valid()) next_chunk_.wait();
    next_chunk_ = {};
    chunk_ = nullptr;
    workplace_.reset();
    expected_ = 0;
  });
}

/// Pinning takes longer than packing, so the next chunk is made while this one fills.
std::shared_ptr<MappedPacking::Chunk> MappedPacking::chunk_for(Bytes size) {
  if (chunk_ && chunk_->used + size <= chunk_->size) return chunk_;
  const auto wanted = [&] { return std::max(size, std::min(most_of_a_chunk, guessed(expected_))); };
  chunk_ = next_chunk_.valid() ? next_chunk_.get() : make_chunk(wanted());
  if (chunk_->size < size) chunk_ = make_chunk(size);
  if (guessed(expected_) > chunk_->size) {
    const Bytes more = std::min(most_of_a_chunk, guessed(expected_) - chunk_->size);
    next_chunk_ = std::async(std::launch::async, [this, more] {
      const Current here = context_->current();
      return make_chunk(more);
    });
  }
  return chunk_;
}

Bytes MappedPacking::pack(Range unit, const std::vector<TypedRange>& types) {
  if (unit.size > unit_) {
    throw BadConfig("mapped memory packs units of " + text(unit_) + ", not " + text(unit.size));
  }
  store_.check_whole(unit);
  {
    const std::lock_guard lock(mutex_);
    if (packed_.contains(unit.start)) {
      throw BadConfig("what is at " + std::to_string(unit.start) + " has a packed copy already");
    }
  }
  const Current here = context_->current();
  CardCodec& codec = this->codec();
  begin(0);
  struct Done {
    ~Done() { packing.end(); }
    MappedPacking& packing;
  } const done{*this};
  const std::lock_guard one_at_a_time(packing_);
  const auto& [raw, packed, verified] = *workplace_;
  CUstream stream = unpacks_->at(0);
  const auto number = number_of(stream);
  const Finished finished{cuda(), stream};
  const Range block{raw.range().start, unit.size};
  cuda().check(cuda().copy_to_card(block.start, store_.raw_bytes(unit), unit.size, stream),
               "cuMemcpyHtoDAsync");
  auto form = std::make_shared<const PackedBlock>(
      codec.pack(block, types, packed.range(), verified.range(), number));
  const bool smaller = pays(form->size, unit.size);
  const Bytes on_host = round_up(form->size + sizeof(std::uint32_t), 256);
  const std::shared_ptr<Chunk> chunk = smaller ? chunk_for(on_host) : nullptr;
  expected_ -= std::min(expected_, unit.size);
  if (!smaller) return 0;
  void* const to = Range{chunk->memory.start() + chunk->used, form->size}.data();
  cuda().check(cuda().copy_to_host(to, packed.range().start, form->size, stream),
               "cuMemcpyDtoHAsync");
  measure(*form, packed.range().start, {verified.range().start, unit.size});
  cuda().check(cuda().stream_wait(stream), "cuStreamSynchronize");
  const Bytes size = form->size;
  if (size > largest()) drop_slots();
  {
    const std::lock_guard lock(mutex_);
    largest_ = std::max(largest_, size);
    places_.insert(room(size));
    store_.keep_mapped();
    chunk->used += on_host;
    packed_[unit.start] = {.unit = unit, .form = std::move(form), .chunk = chunk, .host = to};
  }
  store_.packed(unit);
  return size;
}

/// The first time takes longer: the driver makes the kernels ready.
void MappedPacking::measure(const PackedBlock& form, Address packed, Range block) {
  {
    const std::lock_guard lock(mutex_);
    if (seconds_a_byte_.size() >= times_measured) return;
  }
  CUstream stream = unpacks_->at(0);
  const auto number = number_of(stream);
  codec_->unpack(form.runs, packed, block.start, number);
  const Fence began = store_.card()->clock(number);
  codec_->unpack(form.runs, packed, block.start, number);
  const Fence ended = store_.card()->clock(number);
  store_.card()->wait(ended);
  const std::lock_guard lock(mutex_);
  seconds_a_byte_.push_back(store_.card()->seconds(began, ended) / static_cast<double>(block.size));
}

double MappedPacking::rate() const {
  const std::lock_guard lock(mutex_);
  if (seconds_a_byte_.empty()) return 0;
  std::vector<double> sorted = seconds_a_byte_;
  std::ranges::sort(sorted);
  return 1 / std::max(sorted[sorted.size() / 2], 1e-15);
}

Bytes MappedPacking::staging() const {
  const std::lock_guard lock(mutex_);
  if (packed_.empty()) return 0;
  // And a frame more than are in use, see Frames; and what shelves leave empty of their ends.
  return staging_.size() * slot_for(largest_) + unit_ + places_.size() * store_.traits().granule;
}

Bytes MappedPacking::largest() const {
  const std::lock_guard lock(mutex_);
  return largest_;
}

void MappedPacking::grant() noexcept {
  context_->give_back([&] { store_.frames().set_spare(unit_); });
}

void MappedPacking::trim() noexcept {
  drop_slots();
  context_->give_back([&] { store_.frames().set_spare(0); });
}

void MappedPacking::drop_slots() noexcept {
  const std::lock_guard lock(staging_mutex_);
  try {
    const Current here = context_->current();
    for (Lane lane = 0; lane < staging_.size(); ++lane) {
      if (!staging_[lane]) continue;
      cuda().stream_wait(store_.card()->lanes().at(lane));
      staging_[lane].reset();
    }
  } catch (const Error&) {
    // The context is gone.
  }
}

void MappedPacking::unpack_on_host(Range unit, void* to) const {
  std::shared_ptr<const PackedBlock> form;
  std::shared_ptr<const Chunk> chunk;  // while it is read
  const void* from = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const Packed& packed = packed_.at(unit.start);
    form = packed.form;
    chunk = packed.chunk;
    from = packed.host;
  }
  vramx::unpack(*form, from, form->size, to, unit.size);
}

void MappedPacking::forget(Range range) noexcept {
  try {
    for (const Range& unit : units_within(range)) store_.raw_bytes(unit);
  } catch (const Error&) {
    return;  // else there were no copy of these bytes
  }
  drop(range);
}

std::vector<Range> MappedPacking::units_within(Range range) const {
  const std::lock_guard lock(mutex_);
  std::vector<Range> units;
  for (const auto& [start, packed] : packed_) {
    if (packed.unit.overlaps(range)) units.push_back(packed.unit);
  }
  return units;
}

void MappedPacking::drop(Range range) noexcept {
  std::map<Address, Packed> gone;
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    const auto end = packed_.lower_bound(range.end());
    auto it = packed_.upper_bound(range.start);
    if (it != packed_.begin() && std::prev(it)->second.unit.end() > range.start) --it;
    while (it != end) gone.insert(packed_.extract(it++));
    last = !gone.empty() && packed_.empty();
    if (last) {
      largest_ = 0;
      places_.clear();
    }
  }
  if (gone.empty()) return;
  context_->give_back([&] {
    // What is on its way reads it.
    for (CUstream lane : store_.card()->lanes().streams) cuda().stream_wait(lane);
    cuda().stream_wait(unpacks_->at(0));
    note_damage(gone);
    const std::lock_guard lock(shelves_mutex_);
    for (auto& [start, packed] : gone) {
      if (packed.on_card.shelf != nullptr) packed.on_card.shelf->drop(packed.on_card);
    }
    gone.clear();
  });
  if (last) trim();
}

}  // namespace vramx
