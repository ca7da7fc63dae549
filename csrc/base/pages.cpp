#include "base/pages.hpp"

#include <sys/mman.h>

namespace vramx {

std::optional<Range> map_pages(Bytes size) noexcept {
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return std::nullopt;
  return Range{reinterpret_cast<Address>(at), size};  // NOLINT
}

void unmap_pages(Range pages) noexcept { munmap(pages.data(), pages.size); }

}  // namespace vramx
