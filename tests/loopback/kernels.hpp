// The kernels that the stand-in knows, by name: what csrc/forms/kernels.cu does, by the processor's
// codec.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace loopback {

struct Bytes {
  std::uintptr_t address = 0;
  std::uint64_t size = 0;
};

/// A kernel with its arguments, and the memory that it reads and writes: the card's and the host's.
struct Launch {
  std::function<void()> run;
  std::vector<Bytes> names;
  std::vector<Bytes> names_on_host{};
};

struct Kernel {
  std::string name;
  unsigned threads;  ///< of a thread block, in all; the real one is written for so many
  bool one_block;
  Launch (*with)(void** arguments);
};

/// Null where there is none of that name.
const Kernel* find_kernel(const std::string& name);

}  // namespace loopback
