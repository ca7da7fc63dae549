#include "device/piece.hpp"

namespace vramx {

struct Piece::Memory {
  Memory(MappedStore& of, Bytes size)
      : card(of.card()),
        frames(of.frames()),
        addresses(card->context()->driver, round_up(size, of.traits().granule),
                  of.traits().granule),
        handle(frames.memory().take(range().size)) {}
  ~Memory() {
    if (rests) frames.memory().resume(range().size);
    frames.memory().give(range().size, handle);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Range range() const { return addresses.range(); }
  bool unmap() { return card->cuda().unmap(range().start, range().size) == CUDA_SUCCESS; }

  std::shared_ptr<CudaCard> card;
  Frames& frames;
  Addresses addresses;
  Handle handle;
  bool rests = false;  ///< nobody uses it, but it could not be unmapped
};

Piece::Piece(MappedStore& store, Bytes size) : memory_(std::make_shared<Memory>(store, size)) {
  const CudaCard& card = *store.card();
  map_on_card(card.cuda(), card.context()->device, range(), memory_->handle);
}

Piece::~Piece() {
  if (memory_->unmap()) return;
  memory_->rests = true;
  memory_->frames.memory().rest(range().size);
  memory_->frames.try_later([memory = memory_] { return memory->unmap(); });
}

Range Piece::range() const { return memory_->range(); }

}  // namespace vramx
