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
//
// A block with a packed copy may leave and have that copy stay, for less room, which takes no time
// on the link but some of the card's: it works on nothing else while it unpacks. Packed copies also
// cross the link sooner than raw ones. Neither pays where the work hides all moves.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/trace.hpp"

namespace vramx {

struct Prediction {
  double seconds = 0;   ///< a pass, when passes follow each other
  Bytes moved_in = 0;   ///< a pass, over the link
  Bytes raw_in = 0;     ///< the raw bytes that those stand for
  Bytes unpacked = 0;   ///< a pass, raw
  Bytes moved_out = 0;  ///< a pass, written back
};

/// What becomes of a block between two uses: its raw bytes are kept on the card, or leave. Then it
/// is streamed back raw or packed, or unpacked from its packed copy, which stays on the card. A
/// block whose packed copy stays has it there all the time: it is kept packed wherever it is not
/// kept raw.
enum class Level : std::uint8_t { streamed, streamed_packed, kept_packed, kept };

struct Plan {
  /// By step, and by the block's place among the step's, until its next use.
  std::vector<std::vector<Level>> levels;
  Bytes ahead = 0;  ///< room kept free for what is fetched ahead
  Prediction predicted;
};

/// What passes are compared by: their seconds, and for what they move some more, since moves hold
/// up a program that runs beside them.
double cost(const Prediction& pass, Rates rates);
/// Seconds that the card unpacks in a pass.
double unpacking(const Prediction& pass, Rates rates);

/// The most raw bytes of a step's blocks that are kept packed after it. They have room of
/// their own to be unpacked in, so that what comes over the link may come long before it is needed.
Bytes most_unpacked(const Trace& trace, const Plan& plan);

/// Plans a trace for a budget, with the room for fetching ahead and the use of packed copies that
/// predict the cheapest pass; with packed copies it is never slower than without those that are not
/// alone.
/// Throws BadConfig where the trace is empty or names unknown blocks, and OutOfMemory where a
/// step's blocks exceed the budget.
Plan make_plan(const Trace& trace, Bytes budget, Rates rates);

/// The same without packed copies, but those that are alone, and with `ahead` bytes, or as many as
/// the largest step leaves, kept free.
Plan make_plan(const Trace& trace, Bytes budget, Rates rates, Bytes ahead);

/// How long a pass takes under a plan when passes follow each other: the link carries one block at
/// a time in the order of need, as early as there is room, and a step waits for its blocks. The
/// card unpacks as the step begins that needs it, and the link goes on meanwhile.
Prediction predict(const Trace& trace, const Plan& plan, Bytes budget, Rates rates);

}  // namespace vramx
