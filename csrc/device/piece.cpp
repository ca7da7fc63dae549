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
  const Driver& cuda = store_.card()->cuda();
  const Range at = range();
  const CUmemAccessDesc access{.location = on_card(store_.card()->context()->device).location,
                               .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  cuda.check(cuda.map(at.start, at.size, 0, memory_, 0), "cuMemMap");
  const CUresult result = cuda.set_access(at.start, at.size, &access, 1);
  if (result != CUDA_SUCCESS) {
    cuda.unmap(at.start, at.size);
    cuda.check(result, "cuMemSetAccess");
  }
  mapped_ = true;
}

void Piece::unmap() {
  const Driver& cuda = store_.card()->cuda();
  cuda.check(cuda.unmap(range().start, range().size), "cuMemUnmap");
  mapped_ = false;
}

}  // namespace vramx
