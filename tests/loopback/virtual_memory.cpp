// The entry points of virtual memory management, pinned host memory and copies.
#include <cuda.h>

#include <algorithm>
#include <cstring>

#include "serve.hpp"

namespace {

using loopback::find;
using loopback::is_card;
using loopback::Lock;
using loopback::number;
using loopback::page_size;
using loopback::serve_current;
using loopback::serve_initialised;
using loopback::State;

CUresult valid(bool done) { return done ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

bool is_place(const State& s, const CUmemLocation& location) {
  return location.type == CU_MEM_LOCATION_TYPE_DEVICE && is_card(s, location.id);
}

bool is_place(const State& s, const CUmemAllocationProp& place) {
  return place.type == CU_MEM_ALLOCATION_TYPE_PINNED && is_place(s, place.location);
}

CUresult copy(const char* entry, std::uintptr_t to, std::uintptr_t from, std::uint64_t size,
              bool to_card, CUstream stream) {
  const auto body = [&](State& s, Lock& lock) {
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!s.copies_on_card(to_card ? to : from, size)) return CUDA_ERROR_INVALID_VALUE;
    const bool pinned = s.copies_on_host(to_card ? from : to, size);
    if (!pinned && s.copies_pageable == 0) return CUDA_ERROR_INVALID_VALUE;
    if (to_card && s.damaging.first > 0 && --s.damaging.first == 0) {
      auto* damaged = reinterpret_cast<unsigned char*>(from) + s.damaging.second / 8 % size;
      *damaged = static_cast<unsigned char>(*damaged ^ 1U << s.damaging.second % 8);
    }
    std::vector<char> staged;
    if (!pinned && to_card) {
      const auto* source = reinterpret_cast<const char*>(from);
      staged.assign(source, source + size);
    }
    const auto run = [&s, to, from, size, to_card, pinned, staged = std::move(staged)] {
      const void* source = staged.empty() ? reinterpret_cast<const void*>(from) : staged.data();
      std::memcpy(reinterpret_cast<void*>(to), source, size);
      (to_card ? s.counts.to_card : s.counts.to_host) += size;
      if (!pinned) s.counts.pageable += size;
    };
    s.submit(number(stream), {.after = nullptr, .run = run, .names = {{to, size}, {from, size}}});
    if (!pinned && !to_card) {
      const auto point = s.end_of(number(stream));
      s.progressed.wait(lock, [&] { return s.reach(*point); });
    }
    return CUDA_SUCCESS;
  };
  return serve_current(entry, body, stream);
}

}  // namespace

extern "C" {

CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* place,
                                       CUmemAllocationGranularity_flags /*option*/) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_place(s, *place)) return CUDA_ERROR_INVALID_VALUE;
    *granularity = page_size;
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAddressReserve(CUdeviceptr* address, size_t size, size_t alignment,
                             CUdeviceptr wanted, unsigned long long flags) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (page_size % alignment != 0 || wanted != 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *address = s.reserve(size);
    return *address != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  });
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t size) {
  return serve_initialised(__func__,
                           [&](State& s, Lock&) { return valid(s.free_addresses(address, size)); });
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                     const CUmemAllocationProp* place, unsigned long long flags) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_place(s, *place) || size == 0 || size % page_size != 0 || flags != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    *handle = s.create(size);
    return *handle != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  });
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  return serve_initialised(__func__, [&](State& s, Lock&) { return valid(s.release(handle)); });
}

CUresult cuMemMap(CUdeviceptr address, size_t size, size_t offset,
                  CUmemGenericAllocationHandle handle, unsigned long long flags) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    return valid(offset == 0 && flags == 0 && s.map(address, size, handle));
  });
}

CUresult cuMemUnmap(CUdeviceptr address, size_t size) {
  return serve_initialised(__func__,
                           [&](State& s, Lock&) { return valid(s.unmap(address, size)); });
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc* access,
                        size_t count) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    for (size_t i = 0; i < count; ++i) {
      if (!is_place(s, access[i].location)) return CUDA_ERROR_INVALID_VALUE;
      if (access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_INVALID_VALUE;
    }
    return valid(s.set_access(address, size));
  });
}

CUresult cuMemHostRegister_v2(void* start, size_t size, unsigned flags) {
  return serve_current(__func__, [&](State& s, Lock&) {
    if (size == 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto next = s.registered.upper_bound(number(start));
    if (next != s.registered.end() && next->first < number(start) + size) {
      return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    if (next != s.registered.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second > number(start)) {
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
      }
    }
    if (!s.can_pin(size)) return CUDA_ERROR_OUT_OF_MEMORY;
    s.registered[number(start)] = size;
    s.counts.registered += size;
    return CUDA_SUCCESS;
  });
}

CUresult cuMemHostUnregister(void* start) {
  return serve_current(__func__, [&](State& s, Lock&) {
    const auto it = s.registered.find(number(start));
    if (it == s.registered.end()) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    if (s.named_by_work(it->first, it->second)) return CUDA_ERROR_INVALID_VALUE;
    s.counts.registered -= it->second;
    s.registered.erase(it);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  const auto body = [&](State& s, Lock&) {
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!s.copies_on_card(to, size) || !s.copies_on_card(from, size)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    s.submit(number(stream), {.after = nullptr,
                              .run =
                                  [to, from, size] {
                                    std::memmove(reinterpret_cast<void*>(to),
                                                 reinterpret_cast<const void*>(from), size);
                                  },
                              .names = {{to, size}, {from, size}}});
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  const auto body = [&](State& s, Lock&) {
    const std::uint64_t size = count * sizeof(value);
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (to % sizeof(value) != 0 || !s.copies_on_card(to, size)) return CUDA_ERROR_INVALID_VALUE;
    s.submit(
        number(stream),
        {.after = nullptr,
         .run = [to, value, count] { std::fill_n(reinterpret_cast<unsigned*>(to), count, value); },
         .names = {{to, size}}});
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
  return copy(__func__, to, number(from), size, true, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy(__func__, number(to), from, size, false, stream);
}

}  // extern "C"
