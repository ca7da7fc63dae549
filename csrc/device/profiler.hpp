// Named ranges in the timeline of an attached profiler (NVTX). Each costs a few nanoseconds where
// none is attached; callers ask for none then.
#pragma once

#include <string>

namespace vramx {

/// Opens a range on the calling thread; ranges of a thread nest.
void begin_profiler_range(const std::string& name) noexcept;
/// Ends the innermost open range of the calling thread.
void end_profiler_range() noexcept;

}  // namespace vramx
