#include "base/pages.hpp"

#include <sys/mman.h>

#include "base/error.hpp"

namespace vramx {

namespace {

std::optional<Range> map(Bytes size, int protection) noexcept {
  void* at = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return std::nullopt;
  return Range{reinterpret_cast<Address>(at), size};  // NOLINT
}

}  // namespace

std::optional<Range> map_pages(Bytes size) noexcept { return map(size, PROT_READ | PROT_WRITE); }

std::optional<Range> map_no_pages(Bytes size) noexcept { return map(size, PROT_NONE); }

void unmap_pages(Range pages) noexcept { munmap(pages.data(), pages.size); }

void give_back_pages(Range pages) noexcept {
  madvise(pages.data(), pages.size, MADV_DONTNEED);
  mprotect(pages.data(), pages.size, PROT_NONE);
}

void take_pages_again(Range pages) {
  if (mprotect(pages.data(), pages.size, PROT_READ | PROT_WRITE) == 0) return;
  throw OutOfMemory("the system refused " + text(pages.size) + " of host memory again",
                    {.asked = pages.size});
}

}  // namespace vramx
