// The routes of mapped memory's packed copies: over the link, to the card to stay there, and from
// there into the frames.
#include "base/error.hpp"
#include "device/mapped_packing.hpp"

namespace vramx {

std::vector<MappedPacking::Packed*> MappedPacking::packed_of(Range range) {
  store_.check_whole(range);
  const std::lock_guard lock(mutex_);
  std::vector<Packed*> found;
  for (Address at = range.start; at < range.end(); at += unit_) {
    const auto it = packed_.find(at);
    if (it == packed_.end()) throw BadConfig("there is no packed copy of what is to come packed");
    found.push_back(&it->second);
  }
  return found;
}

/// One a lane: what arrives in it next waits for what was unpacked from it, by the lane's order.
Range MappedPacking::staging_of(Lane lane) {
  auto& piece = staging_.at(lane);
  if (!piece) piece = std::make_unique<Piece>(store_, CardCodec::verified_bytes(largest()));
  return piece->range();
}

Fence MappedPacking::Way::evict(Range range, EvictMode how, Lane lane, Fences after) {
  return packing.store_.evict(range, how, lane, after);
}

Rates MappedPacking::Way::rates() const { return packing.store_.rates(); }

Fence MappedPacking::Way::lane_clock(Lane lane) { return packing.store_.lane_clock(lane); }

Fence MappedPacking::Link::fetch(Range range, FetchMode /*how*/, Lane lane, Fences after) {
  const Current here = packing.context_->current();
  const auto units = packing.packed_of(range);
  CUstream stream = packing.store_.card()->lanes().at(lane);
  auto next = units.begin();
  return packing.store_.arrive(range, stream, after, [&](Range unit) {
    const Packed& packed = **next++;
    const std::lock_guard lock(packing.staging_mutex_);
    const Range staging = packing.staging_of(lane);
    packing.cross(packed, staging.start, stream);
    packing.codec_->unpack(packed.form->runs, staging.start, unit.start, number_of(stream));
  });
}

Fence MappedPacking::Hold::fetch(Range range, FetchMode /*how*/, Lane lane, Fences after) {
  const Current here = packing.context_->current();
  const auto units = packing.packed_of(range);
  CUstream stream = packing.store_.card()->lanes().at(lane);
  for (const Packed* const packed : units) {
    if (packed->on_card) throw BadConfig("fetch of a packed copy that is on the card");
  }
  auto arrived = std::make_shared<CudaEvent>(packing.context_);
  packing.store_.card()->order_lane(stream, after);
  try {
    for (Packed* const packed : units) {
      const Bytes size = CardCodec::verified_bytes(packed->form->size);
      packed->on_card = std::make_unique<Piece>(packing.store_, size);
      packing.cross(*packed, packed->on_card->range().start, stream);
    }
    packing.cuda().check(packing.cuda().event_record(arrived->event, stream), "cuEventRecord");
  } catch (...) {
    packing.cuda().stream_wait(stream);
    for (Packed* const packed : units) packed->on_card.reset();
    throw;
  }
  for (Packed* const packed : units) packed->arrived = arrived;
  return arrived;
}

Fence MappedPacking::Hold::evict(Range range, EvictMode /*how*/, Lane /*lane*/, Fences after) {
  const Current here = packing.context_->current();
  const auto units = packing.packed_of(range);
  for (const Packed* const packed : units) {
    if (!packed->on_card) throw BadConfig("evict of a packed copy that is not on the card");
  }
  CudaCard& card = *packing.store_.card();
  for (const Fence& fence : after) card.wait(fence);
  for (const Packed* const packed : units) {
    card.wait(packed->arrived);
    card.wait(packed->unpacked);
  }
  auto next = units.begin();
  try {
    for (; next != units.end(); ++next) (*next)->on_card->unmap();
  } catch (...) {
    for (auto taken = units.begin(); taken != next; ++taken) (*taken)->on_card->map();
    throw;
  }
  for (Packed* const packed : units) {
    packed->arrived = packed->unpacked = nullptr;
    packed->on_card.reset();
  }
  return nullptr;
}

Rates MappedPacking::Unpack::rates() const {
  return {.up = packing.rate(), .down = packing.rate()};
}

Fence MappedPacking::Unpack::lane_clock(Lane /*lane*/) {
  return packing.store_.card()->clock(number_of(packing.unpacks_->at(0)));
}

Fence MappedPacking::Unpack::fetch(Range range, FetchMode /*how*/, Lane /*lane*/, Fences after) {
  const Current here = packing.context_->current();
  const auto units = packing.packed_of(range);
  CUstream stream = packing.unpacks_->at(0);
  for (Packed* const packed : units) {
    if (!packed->on_card) throw BadConfig("unpack of a packed copy that is not on the card");
    packing.store_.card()->order_lane(stream, {&packed->arrived, 1});
  }
  auto next = units.begin();
  const Fence unpacked = packing.store_.arrive(range, stream, after, [&](Range unit) {
    const Packed& packed = **next++;
    packing.codec_->unpack(packed.form->runs, packed.on_card->range().start, unit.start,
                           number_of(stream));
  });
  for (Packed* const packed : units) packed->unpacked = unpacked;
  return unpacked;
}

}  // namespace vramx
