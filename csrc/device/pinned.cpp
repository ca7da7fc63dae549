#include "device/pinned.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/pages.hpp"
#include "base/team.hpp"

namespace vramx {

namespace {

constexpr Bytes alignment = 2 * MiB;
constexpr Bytes populated_at_once = 16 * MiB;

std::atomic<Bytes> pinned{0};

void check_pinned(const Driver& driver, CUresult result, const char* call, Bytes asked) {
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_NOT_SUPPORTED: {
      const char* name = nullptr;
      driver.error_name(result, &name);
      const Bytes held = pinned.load();
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

class Mappable final : public HostCopy {
 public:
  // The destructor runs once the constructor that this one delegates to is done.
  Mappable(std::shared_ptr<const Driver> driver, CUdevice card, int node, Bytes size, Bytes unit)
      : Mappable(std::move(driver), size) {
    const CUmemAllocationProp place = on_host(node);
    for (Bytes from = 0; from < size; from += unit) {
      const Bytes piece = std::min(unit, size - from);
      Handle handle = 0;
      check_pinned(*driver_, driver_->create_memory(&handle, piece, &place, 0), "cuMemCreate",
                   size);
      pieces_.push_back({.range = {start_ + from, piece}, .handle = handle});
      pinned += piece;
      driver_->check(driver_->map(start_ + from, piece, 0, handle, 0), "cuMemMap");
      pieces_.back().mapped = true;
    }
    const std::array access{access_from(place), access_from(on_card(card))};
    driver_->check(driver_->set_access(start_, size, access.data(), access.size()),
                   "cuMemSetAccess");
  }
  ~Mappable() override {
    for (const Piece& piece : pieces_) {
      if (piece.mapped) driver_->unmap(piece.range.start, piece.range.size);
      driver_->release_memory(piece.handle);
      pinned -= piece.range.size;
    }
  }

  Handle handle(std::size_t index) const override { return pieces_.at(index).handle; }

 private:
  struct Piece {
    Range range;
    Handle handle = 0;
    bool mapped = false;
  };

  Mappable(std::shared_ptr<const Driver> driver, Bytes size)
      : HostCopy(Pinning::mappable),
        driver_(std::move(driver)),
        addresses_(driver_, size, alignment) {
    start_ = addresses_.range().start;
  }

  std::shared_ptr<const Driver> driver_;
  Addresses addresses_;
  std::vector<Piece> pieces_;
};

class Ordinary final : public HostCopy {
 public:
  Ordinary(std::shared_ptr<const Driver> driver, Bytes size, Pinning pinning)
      : Ordinary(take_pages(size), std::move(driver), pinning) {
    start_ = round_up(mapped_.start, alignment);
    const Range range{start_, size};
    madvise(range.data(), size, MADV_HUGEPAGE);
    if (pinning == Pinning::none) return;
    populate(range);
    check_pinned(*driver_, driver_->pin(range.data(), size, 0), "cuMemHostRegister", size);
    size_ = size;
    pinned += size_;
  }
  ~Ordinary() override {
    if (size_ > 0) driver_->unpin(Range{start_, size_}.data());
    pinned -= size_;
    unmap_pages(mapped_);
  }

  Handle handle(std::size_t /*index*/) const override { return 0; }

 private:
  Ordinary(Range mapped, std::shared_ptr<const Driver> driver, Pinning pinning)
      : HostCopy(pinning), driver_(std::move(driver)), mapped_(mapped) {}

  static Range take_pages(Bytes size) {
    const auto pages = map_pages(size + alignment);
    if (!pages) {
      throw OutOfMemory("the system refused " + text(size) + " of host memory: vramx has " +
                            text(pinned.load()) + " pinned",
                        {.asked = size, .resident = pinned.load()});
    }
    return *pages;
  }

  std::shared_ptr<const Driver> driver_;
  Range mapped_;
  Bytes size_ = 0;  ///< pinned
};

}  // namespace

Bytes pinned_bytes() { return pinned.load(); }

std::unique_ptr<HostCopy> pin_mappable(std::shared_ptr<const Driver> driver, CUdevice card,
                                       int node, Bytes size, Bytes unit) {
  return std::make_unique<Mappable>(std::move(driver), card, node, size, unit);
}

std::unique_ptr<HostCopy> pin_ordinary(std::shared_ptr<const Driver> driver, Bytes size) {
  return std::make_unique<Ordinary>(std::move(driver), size, Pinning::ordinary);
}

std::unique_ptr<HostCopy> keep_pageable(std::shared_ptr<const Driver> driver, Bytes size) {
  return std::make_unique<Ordinary>(std::move(driver), size, Pinning::none);
}

}  // namespace vramx
