// A card as a session has it: queues of work, and memory for each purpose. It moves what it is told
// to move and decides nothing.
#pragma once

#include <string>

#include "base/bytes.hpp"
#include "device/store.hpp"
#include "device/streams.hpp"

namespace vramx {

struct Facts {
  std::string name;               ///< the card's name
  std::string kind;               ///< for reports: "managed", "mapped", "simulated"
  int ordinal = 0;                ///< the card's number
  std::string uuid;               ///< "GPU-…", as NVML writes it; empty where there is none
  Bytes capacity = 0;             ///< the card's memory
  unsigned lanes = 2;             ///< copy queues
  bool computes_on_host = false;  ///< its memory is the host's, and the processor computes on it
  bool virtual_clock = false;     ///< time passes by what is asked of the card alone
  bool slow_moves = true;         ///< asking for a move takes host time, so a mover thread pays
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const Facts& facts() const = 0;
  /// Bytes of the card's memory not in use by anybody, as the device reports it.
  virtual Bytes free_bytes() const = 0;
  virtual Streams& streams() = 0;
  virtual Store& memory(Purpose purpose) = 0;
};

}  // namespace vramx
