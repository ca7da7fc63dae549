#include "device/pinned.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/pages.hpp"
#include "base/team.hpp"

namespace vramx {

namespace {

constexpr Bytes alignment = 2 * MiB;
constexpr Bytes populated_at_once = 16 * MiB;

std::atomic<Bytes> pinned_in_all{0};

void check_pinned(const Driver& driver, CUresult result, const char* call, Bytes asked) {
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_NOT_SUPPORTED: {
      const char* name = nullptr;
      driver.error_name(result, &name);
      const Bytes held = pinned_in_all.load();
      throw PinRefused("the system refused to pin " + text(asked) + " of host memory (" + call +
                           ": " + (name != nullptr ? name : "refused") + "): vramx has " +
                           text(held) +
                           " pinned. Manage less, free memory of other programs, or let it lie in "
                           "pageable memory with on_unpinned=\"warn\"",
                       {.asked = asked, .resident = held});
    }
    default:
      driver.check(result, call);
  }
}

/// Touches fresh memory by several threads; pinning it would do so with one.
void populate(Range range) {
  const Bytes pieces = (range.size - 1) / populated_at_once + 1;
  in_team(pieces, [&](std::size_t piece) {
    const Bytes from = piece * populated_at_once;
    const Range part{range.start + from, std::min(populated_at_once, range.size - from)};
    std::memset(part.data(), 0, part.size);
  });
}

Range take_pages(Bytes size) {
  const auto pages = map_pages(size + alignment);
  if (!pages) {
    throw OutOfMemory("the system refused " + text(size) + " of host memory: vramx has " +
                          text(pinned_in_all.load()) + " pinned",
                      {.asked = size, .resident = pinned_in_all.load()});
  }
  return *pages;
}

}  // namespace

Bytes pinned_bytes() { return pinned_in_all.load(); }

Pin::Pin(std::shared_ptr<const Driver> driver, Range pages)
    : driver_(std::move(driver)), pages_(pages) {
  check_pinned(*driver_, driver_->pin(pages.data(), pages.size, 0), "cuMemHostRegister",
               pages.size);
  // The card goes on using these pages, so a forked child must not make them copied on write.
  madvise(pages.data(), pages.size, MADV_DONTFORK);
  pinned_in_all += pages.size;
}

Pin::~Pin() {
  driver_->unpin(pages_.data());
  madvise(pages_.data(), pages_.size, MADV_DOFORK);
  pinned_in_all -= pages_.size;
}

HostCopy::HostCopy(std::shared_ptr<const Driver> driver, Bytes size, bool pinned)
    : mapped_(take_pages(size)), start_(round_up(mapped_.start, alignment)) {
  const Range range{start_, size};
  madvise(range.data(), size, MADV_HUGEPAGE);
  if (!pinned) return;
  try {
    populate(range);
    pin_.emplace(std::move(driver), range);
  } catch (...) {
    unmap_pages(mapped_);
    throw;
  }
}

HostCopy::~HostCopy() {
  pin_.reset();
  unmap_pages(mapped_);
}

}  // namespace vramx
