// The one taxonomy of errors. Every message says what was asked, what is allowed and what to do.
#pragma once

#include <stdexcept>
#include <string>

#include "base/bytes.hpp"

namespace vramx {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The figures behind an out-of-memory error, all in bytes.
struct Figures {
  Bytes asked = 0;
  Bytes budget = 0;
  Bytes resident = 0;
  Bytes leased = 0;
};

/// Memory that was asked for cannot be had within the budget, the card or the host limit.
struct OutOfMemory : Error {
  OutOfMemory(const std::string& what, Figures f) : Error(what), figures(f) {}
  Figures figures;
};

/// No usable device: no driver, too old a driver, no card, or one without what a backend needs.
struct NoDevice : Error {
  using Error::Error;
};

/// The device or its driver refused or failed a call.
struct DeviceFailure : Error {
  using Error::Error;
};

/// An argument is not allowed.
struct BadConfig : Error {
  using Error::Error;
};

/// What was asked is not possible while a lease or a pin holds the memory.
struct InUse : Error {
  using Error::Error;
};

/// The session is closed, or belongs to the parent of a forked process.
struct NotOpen : Error {
  using Error::Error;
};

/// Work that is being captured would be wrong where it is replayed.
struct Captured : Error {
  using Error::Error;
};

/// Checking mode found bytes that changed without being reported as written.
struct UnreportedWrite : Error {
  using Error::Error;
};

/// Packed bytes, or what is known of where they lie, are not as they were made.
struct Corrupted : Error {
  using Error::Error;
};

}  // namespace vramx
