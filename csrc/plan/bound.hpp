// What no way of moving blocks can beat in a pass of a cycle, whose steps may differ.
#pragma once

#include "plan/trace.hpp"

namespace vramx {

/// Seconds a pass, when passes follow each other. Of what a stretch of steps uses, at most a
/// budget is on the card as the stretch begins; the rest crosses the link before the work of its
/// last step, and what is not worked in that stretch is beside it. So it is longer than
/// PassLimits::fluid where a part of the pass works long with few bytes. Packed copies count with
/// the fewest bytes that hold a block, on the card and on the link, and with the time that
/// unpacking takes in the pass that does as little of it as pays.
double least_seconds(const Trace& trace, Bytes budget, Rates rates);

}  // namespace vramx
