// Managed memory: where each page lies.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "state.hpp"

namespace loopback {

namespace {

template <class Each>
void each_page(State& s, std::uintptr_t address, std::uint64_t size, const Each& each) {
  std::size_t first = 0;
  Allocation* allocation = s.find(address, size, &first);
  if (allocation == nullptr) return;
  for (std::size_t i = 0; i < size / page_size; ++i) each(allocation->pages[first + i]);
}

}  // namespace

State& state() {
  static auto* one = new State;  // never destroyed: programs call the driver as they exit
  return *one;
}

std::uintptr_t place(std::uintptr_t& last, std::uint64_t size, int protection) {
  const auto map = [protection](std::uintptr_t at, std::uint64_t bytes, int more) {
    void* mapped = mmap(reinterpret_cast<void*>(at), bytes, protection,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | more, -1, 0);
    return mapped == MAP_FAILED ? 0 : reinterpret_cast<std::uintptr_t>(mapped);
  };
  std::uintptr_t start = last > size ? map(last - size, size, MAP_FIXED_NOREPLACE) : 0;
  if (start == 0) {
    const std::uintptr_t raw = map(0, size + page_size, 0);
    if (raw == 0) return 0;
    start = (raw + page_size - 1) / page_size * page_size;
    if (start > raw) munmap(reinterpret_cast<void*>(raw), start - raw);
    munmap(reinterpret_cast<void*>(start + size), raw + page_size - start);
  }
  return last = start;
}

std::uintptr_t State::allocate(std::uint64_t size) {
  const std::uint64_t whole = (size + page_size - 1) / page_size * page_size;
  const std::uintptr_t start = place(last, whole, PROT_READ | PROT_WRITE);
  if (start == 0) return 0;
  allocations[start] = {whole, std::vector<Page>(whole / page_size)};
  counts.managed += whole;
  return start;
}

void State::free(std::uintptr_t address) {
  const auto it = allocations.find(address);
  for (Page& page : it->second.pages) set_cards_of(page, 0);
  munmap(reinterpret_cast<void*>(address), it->second.size);
  counts.managed -= it->second.size;
  allocations.erase(it);
}

Allocation* State::find(std::uintptr_t address, std::uint64_t size, std::size_t* first_page) {
  auto it = allocations.upper_bound(address);
  if (it == allocations.begin() || size == 0) return nullptr;
  --it;
  const std::uint64_t offset = address - it->first;
  if (offset % page_size != 0 || size % page_size != 0) return nullptr;
  if (offset >= it->second.size || size > it->second.size - offset) return nullptr;
  *first_page = offset / page_size;
  return &it->second;
}

void State::set_cards_of(Page& page, std::uint32_t cards) {
  const auto copies = [](std::uint32_t mask) {
    return static_cast<std::uint64_t>(std::popcount(mask));
  };
  counts.on_card += copies(cards) * page_size;
  counts.on_card -= copies(page.cards) * page_size;
  counts.peak_on_card = std::max(counts.peak_on_card, counts.on_card);
  page.cards = cards;
}

void State::prefetch(std::uintptr_t address, std::uint64_t size, int card) {
  each_page(*this, address, size, [&](Page& page) {
    if (card == host) {
      if (!page.on_host) counts.to_host += page_size;
      page.on_host = true;
      if (!page.read_mostly) set_cards_of(page, 0);
      return;
    }
    const std::uint32_t bit = 1U << card;
    if ((page.cards & bit) == 0) counts.to_card += page_size;
    set_cards_of(page, page.read_mostly ? page.cards | bit : bit);
    if (!page.read_mostly) page.on_host = false;
  });
}

// Nothing is copied: what the pages held is gone.
void State::discard(std::uintptr_t address, std::uint64_t size) {
  std::memset(reinterpret_cast<void*>(address), 0xDB, size);
  each_page(*this, address, size, [&](Page& page) {
    page.on_host = true;
    set_cards_of(page, 0);
  });
}

// One copy is left: where the page prefers to be if there is one there, else the host's, else any.
void State::unset_read_mostly(Page& page) {
  page.read_mostly = false;
  const std::uint32_t preferred = page.preferred >= 0 ? page.cards & 1U << page.preferred : 0;
  if (preferred != 0) {
    page.on_host = false;
    set_cards_of(page, preferred);
  } else if (page.on_host) {
    set_cards_of(page, 0);
  } else {
    set_cards_of(page, page.cards & (~page.cards + 1));
  }
}

std::uint64_t State::used() const { return counts.on_card - counts.mapped + counts.card_memory; }

bool State::can_pin(std::uint64_t size) const {
  const std::uint64_t pinned = counts.registered;
  return pinned <= pinnable && size <= pinnable - pinned;
}

void State::touch(std::uintptr_t address, std::uint64_t size, bool write) {
  if (touch_mapped(address)) {
    for (std::uint64_t at = page_size; at < size; at += page_size) touch_mapped(address + at);
    return;
  }
  each_page(*this, address, size, [&](Page& page) {
    if ((page.cards & 1U) != 0) {
      if (write) {
        page.on_host = false;
        set_cards_of(page, 1U);
      }
    } else if ((page.accessed_by & 1U) != 0) {
      counts.over_link += page_size;
    } else {
      counts.faulted += page_size;
    }
  });
}

}  // namespace loopback
