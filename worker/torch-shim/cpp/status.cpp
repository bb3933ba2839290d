// The last error, and what can be said of CUDA without its headers: the runtime is asked for by name where libtorch has loaded it.
#include "shim.h"

#include <ATen/detail/CUDAHooksInterface.h>

#include <dlfcn.h>

namespace shim {

std::string& last_error() noexcept {
  thread_local std::string message;
  return message;
}

int failed(int outcome, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    // No memory for the message: the outcome alone has to do.
    last_error().clear();
  }
  return outcome;
}

}  // namespace shim

extern "C" const char* shim_last_error() { return shim::last_error().c_str(); }

// The fields are those of `Facts` in src/cuda/status.rs.
struct CudaFacts {
  int hooks;
  int runtime_found;
  int driver_version;
  int runtime_version;
  int count_error;
  int devices;
};

namespace {

template <class Function>
Function* find(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

extern "C" int shim_cuda_facts(CudaFacts* facts) {
  return shim::guarded([&] {
    *facts = CudaFacts{};
    facts->hooks = at::detail::getCUDAHooks().hasCUDART();
    auto* driver = find<int(int*)>("cudaDriverGetVersion");
    auto* runtime = find<int(int*)>("cudaRuntimeGetVersion");
    auto* count = find<int(int*)>("cudaGetDeviceCount");
    facts->runtime_found = driver != nullptr && runtime != nullptr && count != nullptr;
    if (!facts->runtime_found) return;
    // A failed query leaves zero, which is also what the runtime says where there is no driver.
    driver(&facts->driver_version);
    runtime(&facts->runtime_version);
    facts->count_error = count(&facts->devices);
  });
}

// The runtime's words for one of its errors; null where there is no runtime.
extern "C" const char* shim_cuda_error_text(int code) {
  auto* text = find<const char*(int)>("cudaGetErrorString");
  return text == nullptr ? nullptr : text(code);
}
