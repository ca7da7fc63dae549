// What mapped memory is made of.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/pages.hpp"
#include "device/mapped.hpp"

namespace vramx {

/// What is mapped and moved at once.
struct MappedStore::Unit : Frames::Tenant {
  void* host = nullptr;        ///< its host copy
  bool given_back = false;     ///< of which the system has the memory
  std::unique_ptr<Pin> pin{};  ///< of it alone
  bool unpinnable = false;     ///< the system refused that

  Range host_range() const { return {reinterpret_cast<Address>(host), range.size}; }  // NOLINT
};

struct MappedStore::Reserved {
  Addresses addresses;
  std::unique_ptr<HostCopy> host;  ///< none of what stays on the card
  std::vector<Unit> units{};
  std::optional<Range> idle{};  ///< addresses at which there is nothing
  bool settled = false;

  ~Reserved() {
    if (idle) unmap_pages(*idle);
  }
  bool pinned() const { return host && host->pinned(); }
};

}  // namespace vramx
