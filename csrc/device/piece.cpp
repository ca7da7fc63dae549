#include "device/piece.hpp"

namespace vramx {

Piece::Piece(MappedStore& store, Bytes size)
    : store_(store),
      addresses_(store.card()->context()->driver, round_up(size, store.traits().granule),
                 store.traits().granule),
      memory_(store.frames().memory().take(range().size)) {
  try {
    map();
  } catch (...) {
    store_.frames().memory().give(range().size, memory_);
    throw;
  }
}

Piece::~Piece() {
  const Range at = range();
  if (mapped_) store_.card()->cuda().unmap(at.start, at.size);
  store_.frames().memory().give(at.size, memory_);
}

void Piece::map() {
  const CudaCard& card = *store_.card();
  map_on_card(card.cuda(), card.context()->device, range(), memory_);
  mapped_ = true;
}

void Piece::unmap() {
  const Driver& cuda = store_.card()->cuda();
  cuda.check(cuda.unmap(range().start, range().size), "cuMemUnmap");
  mapped_ = false;
}

}  // namespace vramx
