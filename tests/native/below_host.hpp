// A slow store below the host of a simulated card: what falls there has no copy on the host.
#pragma once

#include <atomic>
#include <map>
#include <vector>

#include "base/error.hpp"
#include "over_simulated.hpp"

class BelowHost final : public OverSimulated {
 public:
  using OverSimulated::OverSimulated;

  vramx::Place lowest() const override { return vramx::Place::below_host; }
  vramx::Route& route(vramx::Place from) override {
    return from == vramx::Place::host ? OverSimulated::route(from) : slow_;
  }
  Range reserve(vramx::Bytes size, vramx::Purpose purpose) override {
    const Range range = OverSimulated::reserve(size, purpose);
    slow_.reserve(range);
    return range;
  }
  void settle(Range range) noexcept override {
    slow_.raise_all(range);
    OverSimulated::settle(range);
  }

  vramx::Bytes peak_on_host() const { return slow_.peak; }
  vramx::Bytes written_back() const { return slow_.written; }
  vramx::Bytes read() const { return slow_.read; }
  /// Falls that were to wait for something first.
  unsigned waits() const { return slow_.waits; }
  void fail_every(unsigned nth) { slow_.failing = nth; }

 private:
  struct Slow final : vramx::Route {
    explicit Slow(BelowHost& host) : card(host.card()) {}
    vramx::Rates rates() const override { return {.up = 5e9, .down = 2e9}; }

    Fence fetch(Range range, vramx::FetchMode how, vramx::Lane, vramx::Fences after) override {
      asked(after);
      if (how != vramx::FetchMode::empty) {
        store(range);
        read += range.size;
      }
      on_host += range.size;
      peak = std::max(peak, on_host);
      for_blocks(range, [](Copy& copy) { copy.below = false; });
      return nullptr;
    }
    Fence evict(Range range, vramx::EvictMode how, vramx::Lane, vramx::Fences after) override {
      asked(after);
      if (!after.empty()) ++waits;
      for_blocks(range, [&](Copy& copy) {
        if (how == vramx::EvictMode::write_back) {
          card.load(copy.bytes.data(), copy.start, block());
          written += block();
        }
        copy.below = true;
      });
      poison(range);
      on_host -= range.size;
      return nullptr;
    }

    struct Copy {
      vramx::Address start = 0;
      std::vector<unsigned char> bytes;
      bool below = true;
    };
    vramx::Bytes block() const { return card.traits().granule; }
    template <class Do>
    void for_blocks(Range range, const Do& work) {
      for (vramx::Address at = range.start; at < range.end(); at += block()) work(copies.at(at));
    }
    void asked(vramx::Fences after) {
      for (const Fence& fence : after) card.wait(fence);
      const unsigned nth = failing;
      if (nth > 0 && ++calls % nth == 0) throw vramx::DeviceFailure("the slow store fails");
    }
    void store(Range range) {
      for_blocks(range, [&](Copy& copy) { card.store(copy.start, copy.bytes.data(), block()); });
    }
    void poison(Range range) {
      const std::vector<unsigned char> gone(block(), vramx::poison);
      for_blocks(range, [&](Copy& copy) { card.store(copy.start, gone.data(), block()); });
    }
    void reserve(Range range) {
      for (vramx::Address at = range.start; at < range.end(); at += block()) {
        copies[at] = {at, std::vector<unsigned char>(block())};
      }
      poison(range);
    }
    void raise_all(Range range) {
      for_blocks(range, [&](Copy& copy) {
        if (copy.below) card.store(copy.start, copy.bytes.data(), block());
      });
    }

    vramx::SimulatedDevice& card;
    std::map<vramx::Address, Copy> copies;
    vramx::Bytes on_host = 0, peak = 0, written = 0, read = 0;
    std::atomic<unsigned> failing = 0;
    unsigned calls = 0, waits = 0;
  };

  Slow slow_{*this};
};
