// Work by several threads.
#pragma once

#include <cstddef>
#include <functional>

namespace vramx {

/// Does work(0) to work(count - 1), in no order, on as many threads as fill fresh memory fastest:
/// one fills it at a third of what the memory takes. Throws the last of what was thrown, once all
/// have stopped; work that was not begun then is left.
void in_team(std::size_t count, const std::function<void(std::size_t)>& work);

}  // namespace vramx
