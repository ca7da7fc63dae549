// Queues of work on the card, and the points in them that others wait for.
//
// No call synchronises the device. Only wait blocks the host. All calls are safe from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace vramx {

/// A queue of compute work: a CUstream handle, or the number of a simulated stream.
using Stream = std::uintptr_t;

/// A point in a queue of work. Null: a point already reached.
struct Mark {
  virtual ~Mark() = default;
};
using Fence = std::shared_ptr<const Mark>;
using Fences = std::span<const Fence>;

class Streams {
 public:
  virtual ~Streams() = default;

  /// The stream waits for the fence; the host does not.
  virtual void order(Stream stream, const Fence& fence) = 0;
  /// A fence at the present end of the stream.
  virtual Fence mark(Stream stream) = 0;
  /// As mark, and a point in time too: `seconds` tells how far two that were reached lie apart.
  virtual Fence clock(Stream stream) = 0;
  virtual double seconds(const Fence& from, const Fence& to) const = 0;
  /// Where the device has failed nothing is to be waited for: that says wait.
  virtual bool reached(const Fence& fence) const noexcept = 0;
  virtual void wait(const Fence& fence) = 0;
  /// On a virtual clock: the seconds that streams have waited.
  virtual double stalled() const { return 0; }
};

/// The end of a stream; null where the stream is gone, since nothing is left to run on it then.
Fence mark_or_nothing(Streams& streams, Stream stream) noexcept;

/// The present time of a stream; null where it cannot be told.
Fence clock_or_nothing(Streams& streams, Stream stream) noexcept;

}  // namespace vramx
