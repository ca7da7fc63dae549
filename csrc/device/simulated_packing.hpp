// The simulated card's packed copies of weights, as the processor packs and unpacks them.
//
// Packed bytes are real ones: on the host, on the card, and in the staging memory of each lane,
// which takes one piece after another. They are unpacked one after another too, in a queue of their
// own that computing does not hold up, and which holds up no computing. What is no more as it was
// packed arrives as poison.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "device/packing.hpp"
#include "device/simulated.hpp"

namespace vramx {

class SimulatedPacking final : public Packing {
 public:
  explicit SimulatedPacking(SimulatedDevice& card) : card_(card), stages_(card.facts().lanes) {}

  Bytes pack(Range piece, const std::vector<TypedRange>& types) override;
  Bytes scratch(Bytes piece) const override { return piece * 5 / 2; }
  void forget(Range range) noexcept override;
  std::vector<Range> damaged() override;
  Bytes staging() const override;
  void trim() noexcept override;
  double rate() const override { return card_.spec_.unpack_rate; }
  Route& link() override { return link_; }
  Route& hold() override { return hold_; }
  Route& unpack() override { return unpack_; }

  // For the card, whose mutex is held.
  /// The raw host bytes of what is packed in the range are there from now on.
  void make_raw(Range range);
  /// What of a range has packed copies alone, into a copy of the range.
  void unpack_alone(Range range, void* to) const;
  Bytes given_back() const { return given_back_; }
  void damage(Address address, std::uint64_t bit);
  void release(Range range) noexcept;
  /// When all that it was given is unpacked.
  double done_at() const { return queue_.at; }

 private:
  using Memory = std::shared_ptr<std::vector<std::byte>>;
  using Tickets = SimulatedWork::Tickets;

  struct Packed {
    Range piece;
    PackedBlock form;
    Memory bytes;
    bool alone = false;  ///< the raw bytes were given back
  };
  struct OnCard {
    Memory bytes;
    double arrives;
    SimulatedWork::Ticket arrival;
  };
  /// A lane's staging memory: what it holds is unpacked by then.
  struct Stage {
    Memory bytes;
    double free = 0;
    SimulatedWork::Ticket last{};
  };

  /// The ways on which raw bytes arrive; they leave as any do.
  class Raw : public Route {
   public:
    explicit Raw(SimulatedPacking& packing) : packing_(packing) {}
    Fence fetch(Range range, FetchMode how, Lane lane, Fences after) final;
    Fence evict(Range range, EvictMode how, Lane lane, Fences after) final;

   protected:
    /// Of a range that is not on the card and has packed copies.
    virtual Fence arrive(Range range, bool moved, Lane lane, Fences after) = 0;
    SimulatedPacking& packing_;
  };
  class Link final : public Raw {
   public:
    using Raw::Raw;
    Rates rates() const override { return packing_.link_rates(); }

   private:
    Fence arrive(Range range, bool moved, Lane lane, Fences after) override;
  };
  class Unpack final : public Raw {
   public:
    using Raw::Raw;
    Rates rates() const override;

   private:
    Fence arrive(Range range, bool moved, Lane lane, Fences after) override;
  };
  class Hold final : public Route {
   public:
    explicit Hold(SimulatedPacking& packing) : packing_(packing) {}
    Rates rates() const override { return packing_.link_rates(); }
    Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
    Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;

   private:
    SimulatedPacking& packing_;
  };

  Rates link_rates() const;
  std::vector<Range> pieces(Range range) const;
  void drop(Range range) noexcept;
  const OnCard& on_card(Range piece) const;
  double start(double at, Fences after) const;
  void arrived(Range piece, const PackedBlock& form, const std::vector<std::byte>& bytes);
  void decode(Range piece, bool moved, const Memory& from, double at, Tickets after);
  void stage();
  void unstage() noexcept;
  void unstage_if_empty() noexcept;

  SimulatedDevice& card_;
  std::map<Address, Packed> packed_;   ///< by the piece's start
  std::map<Address, OnCard> on_card_;  ///< likewise
  std::vector<Range> damaged_;         ///< pieces
  std::vector<Stage> stages_;          ///< by lane
  Bytes largest_ = 0;                  ///< packed copy, by which staging memory is made
  Bytes staged_ = 0;                   ///< a lane
  Bytes given_back_ = 0;
  SimulatedDevice::Queue queue_;
  Link link_{*this};
  Hold hold_{*this};
  Unpack unpack_{*this};
};

}  // namespace vramx
