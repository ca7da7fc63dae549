// Which blocks stay on the card between their uses, and which leave and come back.
//
// Between two uses a block either stays, and takes room all that time, or leaves, and costs the
// link its bytes. What is used again soonest stays first. Of those that are used again after about
// the same time, as all are in a plain cycle, the ones that leave are spread evenly through the
// pass, evenly in compute time: then the link always has about as much to fetch as there is time to
// fetch it. Work that uses few blocks, as at the ends of a U-Net, has too few that could leave;
// what it lacks is spread over the rest, since a burst would need as much room ahead, or made up
// for at once where that is predicted to be the cheaper pass. (Keeping what is used soonest is
// Belady's rule; that prefetching asks for room in which the next blocks arrive while others are in
// use is Cao, Felten, Karlin and Li, "A Study of Integrated Prefetching and Caching Strategies",
// 1995.)
#pragma once

#include <cstdint>
#include <vector>

#include "plan/trace.hpp"

namespace vramx {

struct Prediction {
  double seconds = 0;   ///< a pass, when passes follow each other
  Bytes moved_in = 0;   ///< a pass
  Bytes moved_out = 0;  ///< a pass, written back
};

/// What becomes of a block between two uses: it is kept on the card, or leaves and is streamed
/// back.
enum class Level : std::uint8_t { streamed, kept };

struct Plan {
  /// By step, and by the block's place among the step's, until its next use.
  std::vector<std::vector<Level>> levels;
  Bytes ahead = 0;  ///< room kept free for what is fetched ahead
  Prediction predicted;
};

/// What passes are compared by: their seconds, and for what they move some more, since moves hold
/// up a program that runs beside them.
double cost(const Prediction& pass, Rates link);

/// Plans a trace for a budget, with the room for fetching ahead that predicts the cheapest pass.
/// Throws BadConfig where the trace is empty or names unknown blocks, and OutOfMemory where a
/// step's blocks exceed the budget.
Plan make_plan(const Trace& trace, Bytes budget, Rates link);

/// The same with `ahead` bytes, or as many as the largest step leaves, kept free.
Plan make_plan(const Trace& trace, Bytes budget, Rates link, Bytes ahead);

/// How long a pass takes under a plan when passes follow each other: the link carries one block at
/// a time in the order of need, as early as there is room, and a step waits for its blocks.
Prediction predict(const Trace& trace, const Plan& plan, Bytes budget, Rates link);

}  // namespace vramx
