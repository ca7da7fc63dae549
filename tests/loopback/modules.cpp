// The entry points of modules and kernels. Modules are PTX that names what kernels.hpp knows.
#include <cuda.h>

#include <string>

#include "serve.hpp"

using loopback::find;
using loopback::Lock;
using loopback::number;
using loopback::serve_current;
using loopback::State;

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return serve_current(__func__, [&](State& s, Lock&) {
    const std::string text = static_cast<const char*>(image);
    if (text.find(".version ") == std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
    s.modules[s.next_handle += 0x10] = text;
    ++s.counts.live_modules;
    *module = reinterpret_cast<CUmodule>(s.next_handle);
    return CUDA_SUCCESS;
  });
}

CUresult cuModuleUnload(CUmodule module) {
  return serve_current(__func__, [&](State& s, Lock&) {
    if (s.modules.erase(number(module)) == 0) return CUDA_ERROR_INVALID_HANDLE;
    std::erase_if(s.functions,
                  [&](const auto& each) { return each.second.module == number(module); });
    --s.counts.live_modules;
    return CUDA_SUCCESS;
  });
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return serve_current(__func__, [&](State& s, Lock&) {
    const auto it = s.modules.find(number(module));
    if (it == s.modules.end()) return CUDA_ERROR_INVALID_HANDLE;
    const auto* kernel = loopback::find_kernel(name);
    if (kernel == nullptr || it->second.find(".entry " + kernel->name + "(") == std::string::npos) {
      return CUDA_ERROR_NOT_FOUND;
    }
    s.functions[s.next_handle += 0x10] = {.module = number(module), .kernel = kernel};
    *function = reinterpret_cast<CUfunction>(s.next_handle);
    return CUDA_SUCCESS;
  });
}

CUresult cuLaunchKernel(CUfunction function, unsigned blocks_x, unsigned blocks_y,
                        unsigned blocks_z, unsigned threads_x, unsigned threads_y,
                        unsigned threads_z, unsigned shared, CUstream stream, void** arguments,
                        void** extra) {
  const auto body = [&](State& s, Lock&) {
    const auto it = s.functions.find(number(function));
    if (find(s, stream) == nullptr || it == s.functions.end()) return CUDA_ERROR_INVALID_HANDLE;
    const loopback::Kernel& kernel = *it->second.kernel;
    if (blocks_x == 0 || (kernel.one_block && blocks_x != 1) || blocks_y != 1 || blocks_z != 1 ||
        threads_x != kernel.threads || threads_y != 1 || threads_z != 1 || shared != 0 ||
        extra != nullptr) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    loopback::Launch launch = kernel.with(arguments);
    for (const loopback::Bytes& named : launch.names) {
      if (!s.copies_on_card(named.address, named.size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    for (const loopback::Bytes& named : launch.names_on_host) {
      if (!s.copies_on_host(named.address, named.size)) return CUDA_ERROR_ILLEGAL_ADDRESS;
      launch.names.push_back(named);
    }
    s.launch(number(stream), {.after = nullptr, .run = launch.run, .names = launch.names});
    return CUDA_SUCCESS;
  };
  return serve_current(__func__, body, stream);
}

}  // extern "C"
