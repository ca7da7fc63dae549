// Blocks of weights in a residency's charge, each filled with a byte of its own.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "residency/residency.hpp"
#include "rig.hpp"

struct WorldSpec {
  vramx::Bytes budget = 2;  ///< in blocks
  vramx::Bytes blocks = 8;
  vramx::Purpose purpose = vramx::Purpose::weights;
  std::string policy = "lru";
  bool threaded = true;
  bool packed = false;                     ///< with packed copies
  vramx::MakeStrategy strategy = nullptr;  ///< in place of the policy
};

class World {
 public:
  World(rig::Rig& rig, const WorldSpec& spec);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  vramx::Residency& operator*() { return *residency_; }
  vramx::Residency* operator->() { return residency_.get(); }
  vramx::Range at(vramx::BlockId id) const;
  vramx::Bytes block() const { return block_; }
  /// Where a block that is leased lies for the program and the card, which is what the residency
  /// says: at the addresses of what left the card there may be another's bytes.
  vramx::Range seen(vramx::BlockId id) const;

  /// The byte that fills a block, and a write that makes it another one. The block is leased.
  unsigned char value(vramx::BlockId id) const { return values_[id]; }
  void write(vramx::BlockId id);
  /// Whether the program reads the block's bytes where it uses them.
  bool reads(vramx::BlockId id) const;
  /// With every block evicted: host copies hold the blocks' bytes, device addresses only poison.
  bool kept_on_host() const;

  /// Those of them that have no packed copy, or an old one. A quarter of a large block is of a
  /// type.
  void pack(const vramx::Blocks& blocks);

  /// A group of these blocks.
  vramx::GroupId group(const vramx::Blocks& blocks) { return residency_->define(blocks); }
  void take(const vramx::Blocks& blocks, vramx::Stream stream = 0) {
    residency_->take(blocks, stream, true, nullptr);
  }
  void give(const vramx::Blocks& blocks, vramx::Stream stream = 0) {
    residency_->give(blocks, stream, true);
  }

 private:
  rig::Rig& rig_;
  vramx::Bytes block_;
  std::shared_ptr<vramx::Residency> residency_;
  vramx::Range range_;
  std::vector<unsigned char> values_;
};

/// A poll that tells that its call waits.
class Waiting {
 public:
  vramx::Poll poll() {
    return [this] { waits_ = true; };
  }
  bool waits() const { return waits_; }
  void await() const {
    while (!waits_) std::this_thread::yield();
  }

 private:
  std::atomic<bool> waits_{false};
};

/// Yields until something that another thread does is seen.
template <class Condition>
void await(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

/// A thread whose failed requirements fail the test that joins it.
class Thread {
 public:
  template <class Body>
  explicit Thread(Body body)
      : thread_([this, body] {
          try {
            body();
          } catch (const std::exception& error) {
            failure_ = error.what();
          }
        }) {}
  ~Thread() {
    if (thread_.joinable()) thread_.join();
  }
  void join() {
    thread_.join();
    if (!failure_.empty()) throw check::Failed("in a thread: " + failure_);
  }

 private:
  std::string failure_;
  std::thread thread_;
};
