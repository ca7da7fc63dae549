#include "abi/vramx.h"

#include <exception>

#include "core/current.hpp"

namespace {

vramx::Address address_of(void* pointer) {
  return reinterpret_cast<vramx::Address>(pointer);  // NOLINT
}

void* allocate(vramx::Bytes size, vramx::Stream stream) {
  try {
    vramx::last_failure().clear();
    return reinterpret_cast<void*>(vramx::allocate(size, stream));  // NOLINT
  } catch (const std::exception& error) {
    vramx::last_failure() = error.what();
    return nullptr;
  }
}

}  // namespace

void* vramx_malloc(ssize_t size, int /*device*/, void* stream) {
  return allocate(static_cast<vramx::Bytes>(size), address_of(stream));
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

void* vramx_ort_alloc(size_t size) { return size == 0 ? nullptr : allocate(size, 0); }

void vramx_ort_free(void* pointer) { vramx::free(address_of(pointer)); }

void vramx_ort_empty_cache(void) {
  try {
    vramx::trim();
  } catch (const std::exception& error) {
    vramx::last_failure() = error.what();
  }
}
