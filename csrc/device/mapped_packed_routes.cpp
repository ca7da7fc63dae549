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
  if (!piece) piece = std::make_unique<Piece>(store_, slot_for(largest()));
  return piece->range();
}

Shelf& MappedPacking::shelf_for(Bytes place) {
  return shelves_.try_emplace(place, store_, place, unpacks_->at(0)).first->second;
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
  const std::lock_guard lock(packing.shelves_mutex_);
  for (const Packed* const packed : units) {
    if (packed->on_card.shelf) throw BadConfig("fetch of a packed copy that is on the card");
  }
  auto arrived = std::make_shared<CudaEvent>(packing.context_);
  packing.store_.card()->order_lane(stream, after);
  try {
    for (Packed* const packed : units) {
      packing.shelf_for(packing.room(packed->form->size)).add(packed->on_card);
      packing.cross(*packed, packed->on_card.address(), stream);
    }
    packing.cuda().check(packing.cuda().event_record(arrived->event, stream), "cuEventRecord");
  } catch (...) {
    packing.cuda().stream_wait(stream);
    for (Packed* const packed : units) {
      if (packed->on_card.shelf) packed->on_card.shelf->remove(packed->on_card);
    }
    throw;
  }
  for (Packed* const packed : units) packed->on_card.arrived = arrived;
  return arrived;
}

Fence MappedPacking::Hold::evict(Range range, EvictMode /*how*/, Lane /*lane*/, Fences after) {
  const Current here = packing.context_->current();
  const auto units = packing.packed_of(range);
  const std::lock_guard lock(packing.shelves_mutex_);
  for (const Packed* const packed : units) {
    if (!packed->on_card.shelf) throw BadConfig("evict of a packed copy that is not on the card");
  }
  CudaCard& card = *packing.store_.card();
  for (const Fence& fence : after) card.wait(fence);
  for (const Packed* const packed : units) {
    card.wait(packed->on_card.arrived);
    card.wait(packed->unpacked);
  }
  for (Packed* const packed : units) {
    packed->on_card.shelf->remove(packed->on_card);
    packed->unpacked = nullptr;
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
  const std::lock_guard lock(packing.shelves_mutex_);
  for (Packed* const packed : units) {
    const Shelf::Guest& guest = packed->on_card;
    if (!guest.shelf) throw BadConfig("unpack of a packed copy that is not on the card");
    packing.store_.card()->order_lane(stream, {&guest.arrived, 1});
  }
  auto next = units.begin();
  const Fence unpacked = packing.store_.arrive(range, stream, after, [&](Range unit) {
    const Packed& packed = **next++;
    packing.codec_->unpack(packed.form->runs, packed.on_card.address(), unit.start,
                           number_of(stream));
  });
  for (Packed* const packed : units) packed->unpacked = unpacked;
  return unpacked;
}

}  // namespace vramx
