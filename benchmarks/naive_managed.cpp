// Unified memory with no advice, for torch's pluggable allocator; the driver's own library is
// opened at run time, so no CUDA headers are needed.
#include <dlfcn.h>

#include <cstddef>

namespace {

template <typename Call>
Call entry(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  return driver == nullptr ? nullptr : reinterpret_cast<Call>(dlsym(driver, name));
}

}  // namespace

extern "C" void* naive_malloc(ptrdiff_t size, int, void*) {
  static auto allocate = entry<int (*)(unsigned long long*, size_t, unsigned)>("cuMemAllocManaged");
  constexpr unsigned kAttachGlobal = 1;
  unsigned long long address = 0;
  if (allocate == nullptr || allocate(&address, static_cast<size_t>(size), kAttachGlobal) != 0) {
    return nullptr;
  }
  return reinterpret_cast<void*>(address);
}

extern "C" void naive_free(void* address, ptrdiff_t, int, void*) {
  static auto release = entry<int (*)(unsigned long long)>("cuMemFree_v2");
  if (release != nullptr) release(reinterpret_cast<unsigned long long>(address));
}
