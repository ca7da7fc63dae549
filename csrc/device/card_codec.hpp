// Packs and unpacks blocks on the card.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "device/cuda.hpp"
#include "device/pinned.hpp"
#include "forms/tables.hpp"

namespace vramx {

/// The kernels, in one context. Calls are safe from any thread; streams are of that context, and
/// addresses are the card's, at multiples of 16.
class CardCodec {
 public:
  /// Throws BadConfig where this build has no kernels, and DeviceFailure where the driver refuses
  /// them.
  explicit CardCodec(std::shared_ptr<CudaContext> context);
  ~CardCodec();
  CardCodec(const CardCodec&) = delete;
  CardCodec& operator=(const CardCodec&) = delete;

  /// What pack wants of scratch memory for a block.
  static Bytes scratch_bytes(Bytes block);

  /// Writes the packed form of a block to the start of `packed`, unpacks it into scratch memory and
  /// compares. Waits for the stream. Throws BadConfig where scratch or packed memory is too small,
  /// DeviceFailure where the driver refuses a launch, and Corrupted where the bytes do not come
  /// back, as when something writes the block meanwhile.
  PackedBlock pack(Range block, const std::vector<TypedRange>& ranges, Range packed, Range scratch,
                   Stream stream);

  /// Words of pinned host memory that the card sets where it finds packed bytes damaged: one of
  /// their own, and one that says that there is any.
  struct Told {
    Address damaged, any;
  };
  /// What packed bytes take where they are verified.
  static constexpr Bytes verified_bytes(Bytes packed) { return packed + 16; }
  /// Asks, in the stream's order, whether packed bytes have the digest of their form. Behind them
  /// is room as `verified_bytes` says.
  void verify(const PackedBlock& form, Address packed, Told told, Stream stream) const;

  /// Asks for a block's bytes out of its packed form, in the stream's order.
  void unpack(std::span<const Run> runs, Address packed, Address block, Stream stream) const;

 private:
  struct Kernel {
    std::string name;
    CUfunction function = nullptr;
    unsigned threads = 256;  ///< of a thread block
  };
  struct Module {
    std::shared_ptr<CudaContext> context;
    CUmodule module = nullptr;
    explicit Module(std::shared_ptr<CudaContext> of);
    ~Module();
    Kernel kernel(const std::string& name) const;
  };
  struct Counted;

  const Driver& cuda() const { return *loaded_.context->driver; }
  template <class... Arguments>
  void launch(const Kernel& kernel, Bytes work, CUstream stream, Arguments... arguments) const;
  void zero(Address at, Bytes size, CUstream stream) const;
  void copy(Address to, Address from, Bytes size, CUstream stream) const;
  /// What lies on the card, once the stream is there; until the next call.
  const void* read(Address from, Bytes size, CUstream stream);

  std::vector<Survey> survey(Range block, const std::vector<TypedRange>& typed, Address scratch,
                             CUstream stream);
  std::vector<Counted> count(Range block, const std::vector<TypedRange>& typed,
                             const std::vector<Survey>& surveys, Address scratch, CUstream stream);
  void write(Range block, const std::vector<Run>& runs, const std::vector<Counted>& counted,
             Address packed, Address scratch, CUstream stream) const;

  Module loaded_;
  unsigned multiprocessors_;
  std::array<Kernel, 3> survey_;  ///< by type
  std::array<Kernel, 7> count_;   ///< by words; none of raw
  std::array<Kernel, 7> pack_;
  std::array<Kernel, 7> unpack_;
  Kernel place_, compare_, digest_, verify_;
  std::mutex mutex_;  ///< of packing
  std::unique_ptr<HostCopy> seen_;
  Bytes room_ = 0;
};

}  // namespace vramx
