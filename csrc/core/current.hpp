// Which session serves an allocation: the one the calling thread entered last, else the process's.
#pragma once

#include <memory>
#include <string>

#include "core/core.hpp"

namespace vramx {

/// The calling thread enters, or leaves, a session's scope. Leaving takes the innermost such entry.
void enter(std::shared_ptr<Core> core);
void leave(const Core& core);
/// Serves threads that entered no session; null for none. Returns the previous one.
std::shared_ptr<Core> set_process_core(std::shared_ptr<Core> core);

/// Serve a framework. allocate throws what Scratch::allocate throws, NotOpen where none serves.
Address allocate(Bytes size, Stream stream);
void free(Address address) noexcept;
void record(Address address, Stream stream);
/// Gives back the memory in which nothing lives; does nothing where no session serves.
void trim();

/// Why the calling thread's last allocation failed; empty where it did not.
std::string& last_failure();

}  // namespace vramx
