// Fresh pages of the host's memory.
#pragma once

#include <optional>

#include "base/range.hpp"

namespace vramx {

/// Pages that read as zero and take memory when they are touched; nothing where the system refuses.
std::optional<Range> map_pages(Bytes size) noexcept;
/// Addresses at which every use is a fault; nothing where the system refuses.
std::optional<Range> map_no_pages(Bytes size) noexcept;
void unmap_pages(Range pages) noexcept;

/// The system has the memory of some pages back, and every use of them is a fault until they are
/// taken again: then they read as zero.
void give_back_pages(Range pages) noexcept;
/// Throws OutOfMemory where the system refuses.
void take_pages_again(Range pages);

}  // namespace vramx
