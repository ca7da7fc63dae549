// The entry points that csrc/device/driver.hpp lists.
#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "serve.hpp"

// Newer headers give these names to newer versions; the library keeps the first ones too.
#undef cuDeviceGetUuid
#undef cuMemAdvise
#undef cuMemPrefetchAsync

namespace {

using loopback::context_of;
using loopback::contexts;
using loopback::find;
using loopback::is_card;
using loopback::is_live;
using loopback::Lock;
using loopback::number;
using loopback::Page;
using loopback::serve;
using loopback::serve_current;
using loopback::serve_initialised;
using loopback::State;
using loopback::Stream;

constexpr std::pair<CUresult, const char*> known_errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN"},
};

constexpr int greatest_priority = -5;

CUstream create_stream(State& s) {
  const std::uintptr_t handle = s.next_handle += 0x10;
  s.streams[handle].context = number(contexts.back());
  ++s.counts.live_streams;
  return reinterpret_cast<CUstream>(handle);
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned flags) {
  return serve(__func__, [&](State& s, Lock&) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    s.initialised = true;
    return s.cards > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
  });
}

CUresult cuDriverGetVersion(int* version) {
  return serve(__func__, [&](State& s, Lock&) {
    *version = s.version;
    return CUDA_SUCCESS;
  });
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  return serve(__func__, [&](State&, Lock&) {
    *name = nullptr;
    for (const auto& [known, text] : known_errors) {
      if (known == error) *name = text;
    }
    return *name != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  return serve(__func__, [&](State&, Lock&) {
    const bool known = std::any_of(std::begin(known_errors), std::end(known_errors),
                                   [&](const auto& each) { return each.first == error; });
    *text = known ? "as the loopback driver was told" : nullptr;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuDeviceGetCount(int* count) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    *count = s.cards;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    std::snprintf(name, static_cast<std::size_t>(size), "%s %d", s.name.c_str(), device);
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    switch (attribute) {
      case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = 4;
        return CUDA_SUCCESS;
      case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
        *value = s.concurrent_access;
        return CUDA_SUCCESS;
      case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        *value = s.maps_memory;
        return CUDA_SUCCESS;
      case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
        *value = s.uses_registered;
        return CUDA_SUCCESS;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  });
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    std::fill(std::begin(uuid->bytes), std::end(uuid->bytes), static_cast<char>(0xA0 + device));
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = s.capacity;
    return CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    ++s.retained[device];
    ++s.counts.live_contexts;
    *context = context_of(device);
    return CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    if (s.retained[device] == 0) return CUDA_ERROR_INVALID_CONTEXT;
    --s.retained[device];
    --s.counts.live_contexts;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_card(s, device)) return CUDA_ERROR_INVALID_DEVICE;
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    s.created_contexts.insert(s.next_handle += 0x10);
    ++s.counts.live_contexts;
    *context = reinterpret_cast<CUcontext>(s.next_handle);
    contexts.push_back(*context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxDestroy_v2(CUcontext context) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    const auto is_of_it = [&](const auto& each) { return each.second.context == number(context); };
    // The real driver takes them along; nothing here needs that, so it is refused.
    if (std::any_of(s.streams.begin(), s.streams.end(), is_of_it) ||
        std::any_of(s.events.begin(), s.events.end(), is_of_it)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (s.created_contexts.erase(number(context)) == 0) return CUDA_ERROR_INVALID_CONTEXT;
    --s.counts.live_contexts;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSetLimit(CUlimit limit, size_t /*value*/) {
  return serve_current(__func__, [&](State&, Lock&) {
    return limit == CU_LIMIT_STACK_SIZE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  return serve_initialised(__func__, [&](State&, Lock&) {
    *context = contexts.empty() ? nullptr : contexts.back();
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (!is_live(s, context)) return CUDA_ERROR_INVALID_CONTEXT;
    contexts.push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  return serve_initialised(__func__, [&](State&, Lock&) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  return serve_current(__func__, [&](State& s, Lock&) {
    *total = s.capacity;
    *free = s.capacity - std::min(s.capacity, s.used());
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAllocManaged(CUdeviceptr* address, size_t size, unsigned flags) {
  return serve_current(__func__, [&](State& s, Lock&) {
    if (size == 0 || flags != CU_MEM_ATTACH_GLOBAL) return CUDA_ERROR_INVALID_VALUE;
    if (s.managed_memory == 0) return CUDA_ERROR_NOT_SUPPORTED;
    *address = s.allocate(size);
    return *address != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  });
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  return serve_current(__func__, [&](State& s, Lock&) {
    const auto it = s.allocations.find(address);
    if (it == s.allocations.end()) return CUDA_ERROR_INVALID_VALUE;
    if (s.named_by_work(address, it->second.size)) return CUDA_ERROR_INVALID_VALUE;
    s.free(address);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAdvise(CUdeviceptr address, size_t size, CUmem_advise advice, CUdevice device) {
  return serve_current(__func__, [&](State& s, Lock&) {
    std::size_t first = 0;
    auto* allocation = s.find(address, size, &first);
    if (allocation == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const bool names_device = advice != CU_MEM_ADVISE_SET_READ_MOSTLY &&
                              advice != CU_MEM_ADVISE_UNSET_READ_MOSTLY &&
                              advice != CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION;
    const bool is_known = device == CU_DEVICE_CPU || is_card(s, device);
    if (names_device && (!is_known || s.concurrent_access == 0)) return CUDA_ERROR_INVALID_DEVICE;
    const std::uint32_t bit = is_card(s, device) ? 1U << device : 0;
    for (std::size_t i = 0; i < size / loopback::page_size; ++i) {
      Page& page = allocation->pages[first + i];
      switch (advice) {
        case CU_MEM_ADVISE_SET_READ_MOSTLY:
          page.read_mostly = true;
          break;
        case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
          s.unset_read_mostly(page);
          break;
        case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
          page.preferred = device;
          break;
        case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
          page.preferred = loopback::nowhere;
          break;
        case CU_MEM_ADVISE_SET_ACCESSED_BY:
          page.accessed_by |= bit;
          break;
        case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
          page.accessed_by &= ~bit;
          break;
        default:
          return CUDA_ERROR_INVALID_VALUE;
      }
    }
    return CUDA_SUCCESS;
  });
}

CUresult cuMemPrefetchAsync(CUdeviceptr address, size_t size, CUdevice device, CUstream stream) {
  const auto body = [&](State& s, Lock&) {
    std::size_t first = 0;
    if (s.find(address, size, &first) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const bool is_known = device == CU_DEVICE_CPU || is_card(s, device);
    if (!is_known || s.concurrent_access == 0) return CUDA_ERROR_INVALID_DEVICE;
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    s.submit(number(stream),
             {.after = nullptr,
              .run = [&s, address, size, device] { s.prefetch(address, size, device); },
              .names = {{address, size}}});
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuMemDiscardBatchAsync(CUdeviceptr* addresses, size_t* sizes, size_t count,
                                unsigned long long flags, CUstream stream) {
  const auto body = [&](State& s, Lock&) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; i < count; ++i) {
      const CUdeviceptr address = addresses[i];
      const size_t size = sizes[i];
      std::size_t first = 0;
      if (s.find(address, size, &first) == nullptr) return CUDA_ERROR_INVALID_VALUE;
      s.submit(number(stream), {.after = nullptr,
                                .run = [&s, address, size] { s.discard(address, size); },
                                .names = {{address, size}}});
    }
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuStreamCreate(CUstream* stream, unsigned /*flags*/) {
  return serve_current(__func__, [&](State& s, Lock&) {
    *stream = create_stream(s);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return serve_current(__func__, [&](State&, Lock&) {
    *least = 0;
    *greatest = greatest_priority;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned /*flags*/, int priority) {
  return serve_current(__func__, [&](State& s, Lock&) {
    if (priority > 0 || priority < greatest_priority) return CUDA_ERROR_INVALID_VALUE;
    *stream = create_stream(s);
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    const Stream* known = find(s, stream);
    if (known == nullptr || stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    // The real driver lets held work finish too; nothing here needs that, so it is refused.
    if (!s.finish(number(stream))) return CUDA_ERROR_INVALID_VALUE;
    s.streams.erase(number(stream));
    --s.counts.live_streams;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
  const auto body = [&](State& s, Lock&) {
    const auto it = s.events.find(number(event));
    if (find(s, stream) == nullptr || it == s.events.end()) return CUDA_ERROR_INVALID_HANDLE;
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    s.submit(number(stream), {.after = it->second.point, .run = nullptr});
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  return serve_current(__func__, [&](State& s, Lock&) {
    const std::uintptr_t handle = s.next_handle += 0x10;
    s.events[handle] = {.context = number(contexts.back()),
                        .timed = (flags & CU_EVENT_DISABLE_TIMING) == 0,
                        .point = nullptr};
    ++s.counts.live_events;
    *event = reinterpret_cast<CUevent>(handle);
    return CUDA_SUCCESS;
  });
}

CUresult cuEventDestroy_v2(CUevent event) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    if (s.events.erase(number(event)) == 0) return CUDA_ERROR_INVALID_HANDLE;
    --s.counts.live_events;
    return CUDA_SUCCESS;
  });
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  const auto body = [&](State& s, Lock&) {
    const auto it = s.events.find(number(event));
    const Stream* known = find(s, stream);
    if (known == nullptr || it == s.events.end()) return CUDA_ERROR_INVALID_HANDLE;
    const std::uintptr_t of = stream == nullptr ? number(contexts.back()) : known->context;
    if (it->second.context != of) return CUDA_ERROR_INVALID_HANDLE;
    it->second.point = s.end_of(number(stream));
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

CUresult cuEventQuery(CUevent event) {
  return serve_initialised(__func__, [&](State& s, Lock&) {
    const auto it = s.events.find(number(event));
    if (it == s.events.end()) return CUDA_ERROR_INVALID_HANDLE;
    const auto& point = it->second.point;
    if (!point || point->reached) return CUDA_SUCCESS;
    s.reach(*point);  // who asks on and on gets there
    return CUDA_ERROR_NOT_READY;
  });
}

CUresult cuStreamSynchronize(CUstream stream) {
  const auto body = [&](State& s, Lock& lock) {
    if (find(s, stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const auto point = s.end_of(number(stream));
    s.progressed.wait(lock, [&] { return s.reach(*point); });
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

// Newer headers give this name to a later entry point, which is not the one that is used.
#undef cuEventElapsedTime

// Work takes no time here.
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return serve_current(__func__, [&](State& s, Lock&) {
    for (const CUevent event : {start, end}) {
      const auto it = s.events.find(number(event));
      if (it == s.events.end() || !it->second.timed) return CUDA_ERROR_INVALID_HANDLE;
      if (!it->second.point || !it->second.point->reached) return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = 0;
    return CUDA_SUCCESS;
  });
}

CUresult cuEventSynchronize(CUevent event) {
  return serve_current(__func__, [&](State& s, Lock& lock) {
    const auto it = s.events.find(number(event));
    if (it == s.events.end()) return CUDA_ERROR_INVALID_HANDLE;
    const auto point = it->second.point;
    s.progressed.wait(lock, [&] { return !point || s.reach(*point); });
    return CUDA_SUCCESS;
  });
}

}  // extern "C"
