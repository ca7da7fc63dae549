// Packed copies of mapped memory: in pinned memory of the host, and on the card beside the frames,
// of the same stock; unpacked by the card into the frames. Behind each copy on the host there is a
// word that the card sets where it finds that copy damaged on arrival.
#pragma once

#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "device/card_codec.hpp"
#include "device/mapped.hpp"
#include "device/packing.hpp"
#include "device/piece.hpp"
#include "device/shelf.hpp"

namespace vramx {

class MappedPacking final : public Packing {
 public:
  /// Of a store that outlives it, whose units are so large.
  MappedPacking(MappedStore& store, Bytes unit);
  ~MappedPacking() override;

  void begin(Bytes raw) override;
  void end() noexcept override;
  Bytes pack(Range unit, const std::vector<TypedRange>& types) override;
  Bytes scratch(Bytes piece) const override;
  Bytes room(Bytes packed) const override {
    return Shelf::place_for(CardCodec::verified_bytes(packed));
  }
  void forget(Range range) noexcept override;
  /// The raw bytes of a unit that has a packed copy. Throws Corrupted where that is not what it
  /// was.
  void unpack_on_host(Range unit, void* to) const;
  std::vector<Range> damaged() override;
  Bytes staging() const override;
  double rate() const override;
  void grant() noexcept override;
  void trim() noexcept override;
  Route& link() override { return link_; }
  Route& hold() override { return hold_; }
  Route& unpack() override { return unpack_; }

  /// The range is given back, and nobody asks about it any more.
  void release(Range range) noexcept;

 private:
  /// Pinned memory that packed copies share.
  struct Chunk {
    HostCopy memory;
    Bytes size;
    Bytes used = 0;
  };
  /// What a unit is packed in.
  struct Workplace {
    Workplace(MappedStore& store, Bytes unit);
    Piece raw, packed, verified;
  };
  struct Packed {
    Range unit;
    std::shared_ptr<const PackedBlock> form;
    std::shared_ptr<Chunk> chunk;
    void* host = nullptr;  ///< in it
    Shelf::Guest on_card{};
    Fence unpacked{};  ///< when it was last read there

    Address word() const { return reinterpret_cast<Address>(host) + form->size; }  // NOLINT
  };
  /// A way that is this one's business.
  struct Way : Route {
    explicit Way(MappedPacking& of) : packing(of) {}
    Rates rates() const override;
    Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;
    Fence lane_clock(Lane lane) override;
    MappedPacking& packing;
  };
  struct Link final : Way {
    using Way::Way;
    Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
  };
  struct Hold final : Way {
    using Way::Way;
    Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
    Fence evict(Range range, EvictMode how, Lane lane, Fences after) override;
  };
  struct Unpack final : Way {
    using Way::Way;
    Rates rates() const override;
    bool crosses_link() const override { return false; }
    Fence fetch(Range range, FetchMode how, Lane lane, Fences after) override;
    Fence lane_clock(Lane lane) override;
  };

  CardCodec& codec();
  std::shared_ptr<Chunk> make_chunk(Bytes size) const;
  std::shared_ptr<Chunk> chunk_for(Bytes size);
  const Driver& cuda() const { return *context_->driver; }
  std::vector<Packed*> packed_of(Range range);
  std::vector<Range> units_within(Range range) const;
  void drop(Range range) noexcept;
  void cross(const Packed& packed, Address to, CUstream stream) const;
  void note_damage(const std::map<Address, Packed>& gone);
  Bytes largest() const;
  void drop_slots() noexcept;
  Bytes slot_for(Bytes packed) const {
    return round_up(CardCodec::verified_bytes(packed), store_.traits().granule);
  }
  Range staging_of(Lane lane);
  Shelf& shelf_for(Bytes place);
  void measure(const PackedBlock& form, Address packed, Range block);

  MappedStore& store_;
  const Bytes unit_;
  std::shared_ptr<CudaContext> context_;
  std::unique_ptr<CudaLanes> unpacks_;     ///< one queue
  std::unique_ptr<HostCopy> any_damaged_;  ///< a word
  std::unique_ptr<CardCodec> codec_;
  mutable std::mutex mutex_;
  std::map<Address, Packed> packed_;  ///< by unit
  std::vector<Range> gone_damaged_;   ///< units that have no packed copy any more
  Bytes largest_ = 0;                 ///< there was
  std::set<Bytes> places_;            ///< sizes of those on shelves that there may be
  Bytes expected_ = 0;                ///< raw bytes that are still to be packed
  std::mutex packing_;                ///< one unit at a time
  unsigned begun_ = 0;
  std::optional<Workplace> workplace_;
  std::shared_ptr<Chunk> chunk_;                    ///< with room perhaps
  std::future<std::shared_ptr<Chunk>> next_chunk_;  ///< being pinned meanwhile
  std::mutex staging_mutex_;                        ///< and of what lanes are given of it
  std::vector<std::unique_ptr<Piece>> staging_;     ///< by lane, each for the largest
  std::mutex shelves_mutex_;                        ///< and of who has which place
  std::map<Bytes, Shelf> shelves_;                  ///< by the size of their places
  std::vector<double> seconds_a_byte_;              ///< of some units that were unpacked
  Link link_{*this};
  Hold hold_{*this};
  Unpack unpack_{*this};
};

}  // namespace vramx
