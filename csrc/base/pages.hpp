// Fresh pages of the host's memory.
#pragma once

#include <optional>

#include "base/range.hpp"

namespace vramx {

/// Pages that read as zero and take memory when they are touched; nothing where the system refuses.
std::optional<Range> map_pages(Bytes size) noexcept;
void unmap_pages(Range pages) noexcept;

}  // namespace vramx
