#include "device/driver.hpp"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "base/error.hpp"

namespace vramx {

std::shared_ptr<const Driver> Driver::open(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Driver>> opened;
  const std::lock_guard lock(mutex);
  auto& driver = opened[path];
  if (!driver) driver = std::shared_ptr<const Driver>(new Driver(path));
  return driver;
}

Driver::Driver(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw NoDevice("no NVIDIA driver: " + path +
                   " cannot be opened. Install the driver, or use backend=\"simulated\"");
  }
  const auto find = [&](const char* symbol) {
    void* at = dlsym(library, symbol);
    if (at == nullptr) {
      throw NoDevice("the NVIDIA driver at " + path + " lacks " + symbol +
                     ": it is too old. Install a driver for CUDA 12.0 or newer");
    }
    return at;
  };
#define VRAMX_FIND(member, symbol, ...) \
  member = reinterpret_cast<EntryPoint<__VA_ARGS__>>(find(symbol));  // NOLINT
  VRAMX_ENTRY_POINTS(VRAMX_FIND)
#undef VRAMX_FIND
#define VRAMX_LOOK_FOR(member, symbol, ...) \
  member = reinterpret_cast<EntryPoint<__VA_ARGS__>>(dlsym(library, symbol));  // NOLINT
  VRAMX_OPTIONAL_ENTRY_POINTS(VRAMX_LOOK_FOR)
#undef VRAMX_LOOK_FOR
  int have = 0;
  check(init(0), "cuInit");
  check(version(&have), "cuDriverGetVersion");
  if (have < oldest_version) {
    const auto dotted = [](int v) {
      return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
    };
    throw NoDevice("the NVIDIA driver serves CUDA " + dotted(have) + "; vramx needs " +
                   dotted(oldest_version) + " or newer. Install a newer driver");
  }
}

void Driver::check(CUresult result, const char* call) const {
  if (result == CUDA_SUCCESS) return;
  // Both stay null for a result that this driver has no name for.
  const char* name = nullptr;
  const char* words = nullptr;
  error_name(result, &name);
  error_text(result, &words);
  const std::string what = std::string(call) + " failed: " +
                           (name != nullptr ? name : "error " + std::to_string(result)) + " (" +
                           (words != nullptr ? words : "no description") + ")";
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      throw OutOfMemory(what, {});
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
    case CUDA_ERROR_STUB_LIBRARY:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
      throw NoDevice(what);
    default:
      throw DeviceFailure(what);
  }
}

Current::Current(const Driver& driver, CUcontext context) : driver_(driver) {
  CUcontext present = nullptr;
  driver_.check(driver_.context_get(&present), "cuCtxGetCurrent");
  if (present != context) {
    driver_.check(driver_.context_push(context), "cuCtxPushCurrent");
    pushed_ = true;
  }
}

Current::~Current() {
  if (pushed_) {
    CUcontext popped = nullptr;
    driver_.context_pop(&popped);
  }
}

}  // namespace vramx
