// Reserved addresses, physical memory and what is mapped where.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "state.hpp"

namespace loopback {

namespace {

void* at(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

bool whole_pages(std::uintptr_t address, std::uint64_t size) {
  return size > 0 && address % page_size == 0 && size % page_size == 0;
}

// Whether [address, address + size) lies in one of the pieces, told by start and size.
template <class Pieces>
bool inside(const Pieces& pieces, std::uintptr_t address, std::uint64_t size) {
  auto it = pieces.upper_bound(address);
  if (it == pieces.begin() || size == 0) return false;
  --it;
  return address - it->first <= it->second && size <= it->second - (address - it->first);
}

bool no_access(std::uintptr_t address, std::uint64_t size) {
  return mmap(at(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
              -1, 0) != MAP_FAILED;
}

}  // namespace

std::uintptr_t State::reserve(std::uint64_t size) {
  if (!whole_pages(0, size)) return 0;
  const std::uintptr_t start = place(last_reserved, size, PROT_NONE);
  if (start == 0) return 0;
  reservations[start] = size;
  counts.reserved += size;
  return start;
}

bool State::free_addresses(std::uintptr_t address, std::uint64_t size) {
  const auto it = reservations.find(address);
  if (it == reservations.end() || it->second != size) return false;
  const auto mapped = mappings.lower_bound(address);
  if (mapped != mappings.end() && mapped->first < address + size) return false;
  munmap(at(address), size);
  reservations.erase(it);
  counts.reserved -= size;
  return true;
}

std::uint64_t State::create(std::uint64_t size) {
  if (used() + size > capacity) return 0;
  const int file = memfd_create("loopback", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(size)) != 0) return 0;
  const std::uint64_t handle = next_handle += 0x10;
  physical[handle] = {.file = file, .size = size};
  counts.card_memory += size;
  return handle;
}

void State::drop_if_unused(std::uint64_t handle) {
  const auto it = physical.find(handle);
  if (!it->second.released || it->second.mappings > 0) return;
  close(it->second.file);
  counts.card_memory -= it->second.size;
  physical.erase(it);
}

bool State::release(std::uint64_t handle) {
  const auto it = physical.find(handle);
  if (it == physical.end() || it->second.released) return false;
  it->second.released = true;
  drop_if_unused(handle);
  return true;
}

bool State::map(std::uintptr_t address, std::uint64_t size, std::uint64_t handle) {
  const auto it = physical.find(handle);
  if (it == physical.end() || it->second.released || it->second.size != size) return false;
  if (!whole_pages(address, size) || !inside(reservations, address, size)) return false;
  const auto next = mappings.lower_bound(address);
  if (next != mappings.end() && next->first < address + size) return false;
  if (mapping_of(address, 1) != nullptr) return false;
  if (mmap(at(address), size, PROT_NONE, MAP_SHARED | MAP_FIXED, it->second.file, 0) ==
      MAP_FAILED) {
    return false;
  }
  mappings[address] = {.size = size, .handle = handle};
  if (++it->second.mappings > 1) return true;
  counts.mapped += size;
  counts.on_card += size;
  counts.peak_on_card = std::max(counts.peak_on_card, counts.on_card);
  return true;
}

bool State::unmap(std::uintptr_t address, std::uint64_t size) {
  const auto it = mappings.find(address);
  if (it == mappings.end() || it->second.size != size || named_by_work(address, size)) return false;
  if (!no_access(address, size)) return false;
  const std::uint64_t handle = it->second.handle;
  mappings.erase(it);
  if (--physical.at(handle).mappings == 0) {
    counts.mapped -= size;
    counts.on_card -= size;
  }
  drop_if_unused(handle);
  return true;
}

bool State::set_access(std::uintptr_t address, std::uint64_t size) {
  std::uintptr_t end = address;
  for (auto it = mappings.find(address); end < address + size; ++it) {
    if (it == mappings.end() || it->first != end) return false;
    end += it->second.size;
  }
  if (end != address + size) return false;
  if (mprotect(at(address), size, PROT_READ | PROT_WRITE) != 0) return false;
  for (auto it = mappings.find(address); it != mappings.end() && it->first < end; ++it) {
    it->second.access = true;
  }
  return true;
}

Mapping* State::mapping_of(std::uintptr_t address, std::uint64_t size) {
  auto it = mappings.upper_bound(address);
  if (it == mappings.begin()) return nullptr;
  --it;
  const std::uint64_t offset = address - it->first;
  return offset < it->second.size && size <= it->second.size - offset ? &it->second : nullptr;
}

bool State::copies_on_card(std::uintptr_t address, std::uint64_t size) {
  auto it = mappings.upper_bound(address);
  if (it == mappings.begin()) return false;
  --it;
  for (std::uintptr_t reached = address;; ++it) {
    if (it == mappings.end() || it->first > reached || !it->second.access) return false;
    const std::uintptr_t end = it->first + it->second.size;
    if (end <= reached) return false;
    reached = end;
    if (reached >= address + size) return true;
  }
}

bool State::copies_on_host(std::uintptr_t address, std::uint64_t size) {
  return inside(registered, address, size);
}

bool State::touch_mapped(std::uintptr_t page) {
  if (inside(registered, page, page_size)) {
    counts.over_link += page_size;
    return true;
  }
  if (!inside(reservations, page, page_size)) return false;
  if (!copies_on_card(page, page_size)) counts.faulted += page_size;
  return true;
}

}  // namespace loopback
