// What happens, written into a journal while somebody asks for one.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>

#include "mover/mover.hpp"
#include "residency/hops.hpp"
#include "residency/journal.hpp"
#include "table/block_table.hpp"

namespace vramx {

/// Its owner's lock guards it.
class Notes {
 public:
  explicit Notes(const BlockTable& table) : table_(table) {}

  /// As Residency::begin_trace.
  void begin(Device& device, Stream stream, std::size_t most_events, Bytes budget);
  /// Throws InUse where no journal is kept.
  std::unique_ptr<Journal> end();
  /// The number of the journal that is kept; 0 where none is.
  std::uint64_t kept() const { return journal_ ? number_ : 0; }
  explicit operator bool() const { return journal_ != nullptr; }
  /// By its clock; 0 where none is kept.
  double now() const { return journal_ ? journal_->now() : 0; }

  /// Nothing is done where no journal is kept.
  void placed(const Block& block);
  void forgotten(const Block& block);
  /// The block is about to be forgotten, whose packed copy is on the card.
  void let_go(const Block& block);
  void defined(GroupId group);
  void use(GroupId group, Event::Kind kind, Stream stream, Fence from, Fence to);
  /// A block made a hop by a request of a job that was asked for then.
  void move(const Block& block, const Down& hop, double submitted, const Issue& issue,
            const Fence& over);
  void move(const Block& block, const Up& hop, double submitted, const Issue& issue,
            const Fence& over);
  /// A move that counted as done at the start was not.
  void correct_start(const Block& block, bool resident);
  /// The same of its packed copy.
  void correct_start_packed(const Block& block);
  void failure(const std::exception_ptr& error);
  void budget(Bytes budget);
  void reserved(Bytes bytes);
  void plan(const Prediction& plan);

 private:
  TracedGroup traced(GroupId group) const;
  void add(Event move, bool crosses, const Issue& issue, const Fence& over);

  const BlockTable& table_;
  std::unique_ptr<Journal> journal_;
  std::uint64_t number_ = 0;  ///< of the last one
};

}  // namespace vramx
