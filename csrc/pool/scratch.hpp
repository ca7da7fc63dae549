// Serves the frameworks' allocations out of arenas, in stream order.
//
// A freed piece is reused at once on the stream that freed it; another stream is made to wait for
// what was running. A block in which nothing lives is dead: it leaves the card without a copy.
#pragma once

#include <atomic>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pool/arena.hpp"

namespace vramx {

class Scratch {
 public:
  Scratch(std::shared_ptr<Device> device, std::shared_ptr<Residency> residency, Bytes block);

  /// `size` bytes, aligned for tensors, that work on `stream` may use. Lies on the card if there is
  /// room or room can be made, else on the host and is used over the link. Throws OutOfMemory.
  Range allocate(Bytes size, Stream stream, const Poll& poll);
  /// Gives back what allocate returned; it was last used on its stream and on the recorded ones.
  void free(Address address) noexcept;
  /// Its bytes are needed no more and nobody uses it again, but its owner frees it later.
  void abandon(Address address) noexcept;
  /// Another stream uses an allocation.
  void record(Address address, Stream stream);
  /// Gives back the arenas in which nothing lives.
  void trim();
  std::size_t live() const;
  /// What the live allocations take.
  Bytes live_bytes() const { return live_bytes_; }
  /// Whether they take as much as was given to watch for, or more.
  bool grew() const { return live_bytes_ >= watched_for_; }
  void watch_for(Bytes live) { watched_for_ = live; }

 private:
  using Ends = std::vector<std::pair<Stream, Fence>>;
  struct Piece {
    Bytes size = 0;
    bool live = false;
    bool abandoned = false;
    Ends ends;  ///< live: the streams that use it, no fences; free: where their work ends
  };
  using Pieces = std::map<Address, Piece>;

  Pieces::iterator fitting(Bytes size, Stream stream);
  Pieces::iterator find_live(Address address);
  void grow(Bytes size);
  void trim_locked();
  void carve(Pieces::iterator piece, Bytes size);
  void put_back(Pieces::iterator piece);
  Pieces::iterator merge(Pieces::iterator piece);
  Blocks count_live(const Blocks& blocks, int change);
  void end_life(Pieces::iterator piece);

  std::shared_ptr<Device> device_;
  std::shared_ptr<Residency> residency_;
  Bytes block_;
  mutable std::mutex mutex_;
  std::map<Address, std::unique_ptr<Arena>> arenas_;
  Pieces pieces_;
  std::set<std::pair<Bytes, Address>> free_;
  std::unordered_map<BlockId, std::size_t> live_in_;  ///< live pieces, by block
  std::size_t live_ = 0;
  std::atomic<Bytes> live_bytes_ = 0;
  std::atomic<Bytes> watched_for_ = std::numeric_limits<Bytes>::max();
};

}  // namespace vramx
