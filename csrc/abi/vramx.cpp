#include "abi/vramx.h"

#include <exception>

#include "core/current.hpp"

namespace {

vramx::Address address_of(void* pointer) {
  return reinterpret_cast<vramx::Address>(pointer);  // NOLINT
}

}  // namespace

void* vramx_malloc(ssize_t size, int /*device*/, void* stream) {
  try {
    vramx::last_failure().clear();
    return reinterpret_cast<void*>(  // NOLINT
        vramx::allocate(static_cast<vramx::Bytes>(size), address_of(stream)));
  } catch (const std::exception& error) {
    vramx::last_failure() = error.what();
    return nullptr;
  }
}

void vramx_free(void* pointer, ssize_t /*size*/, int /*device*/, void* /*stream*/) {
  vramx::free(address_of(pointer));
}

void vramx_record_stream(void* pointer, void* stream) {
  try {
    vramx::record(address_of(pointer), address_of(stream));
  } catch (const std::exception& error) {
    vramx::last_failure() = error.what();
  }
}

const char* vramx_last_failure(void) { return vramx::last_failure().c_str(); }
