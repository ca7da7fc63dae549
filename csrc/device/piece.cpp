#include "device/piece.hpp"

namespace vramx {

Piece::Piece(MappedStore& store, Bytes size)
    : store_(store),
      addresses_(store.card()->context()->driver, round_up(size, store.traits().granule),
                 store.traits().granule),
      memory_(store.frames().memory().take(range().size)) {
  const CudaCard& card = *store_.card();
  try {
    map_on_card(card.cuda(), card.context()->device, range(), memory_);
  } catch (...) {
    store_.frames().memory().give(range().size, memory_);
    throw;
  }
}

Piece::~Piece() {
  const Range at = range();
  store_.card()->cuda().unmap(at.start, at.size);
  store_.frames().memory().give(at.size, memory_);
}

}  // namespace vramx
