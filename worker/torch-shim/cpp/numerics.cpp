// Switches of the whole process for reproducible and for fast arithmetic, and the state of the random number generators.
#include "shim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <mutex>

using shim::guarded;
using shim::TensorPointer;

namespace {

at::Generator generator(int cuda_device) {
  if (cuda_device < 0) return at::detail::getDefaultCPUGenerator();
  if (!at::globalContext().hasCUDA()) throw shim::NoDevice();
  return at::globalContext().defaultGenerator(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(cuda_device)));
}

}  // namespace

// `mode`: 0 off, 1 an error where an operation has no deterministic implementation, 2 a warning there.
extern "C" int shim_deterministic_set(int mode) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(mode != 0, mode == 2);
    context.setDeterministicCuDNN(mode != 0);
  });
}

extern "C" int shim_deterministic_get(int* mode) {
  return guarded([&] {
    const auto& context = at::globalContext();
    *mode = context.deterministicAlgorithms() ? (context.deterministicAlgorithmsWarnOnly() ? 2 : 1) : 0;
  });
}

// `precision`: 0 highest, 1 high, 2 medium, as `at::Float32MatmulPrecision` counts.
extern "C" int shim_matmul_precision_set(int precision) {
  return guarded([&] {
    static const char* const names[] = {"highest", "high", "medium"};
    at::globalContext().setFloat32MatmulPrecision(names[precision]);
  });
}

extern "C" int shim_matmul_precision_get(int* precision) {
  return guarded([&] { *precision = static_cast<int>(at::globalContext().float32MatmulPrecision()); });
}

extern "C" int shim_tf32_convolutions_set(int allow) {
  return guarded([&] { at::globalContext().setAllowTF32CuDNN(allow != 0); });
}

extern "C" int shim_tf32_convolutions_get(int* allowed) {
  return guarded([&] { *allowed = at::globalContext().allowTF32CuDNN(); });
}

extern "C" int shim_random_state(int cuda_device, TensorPointer* out) {
  return guarded([&] {
    auto source = generator(cuda_device);
    const std::lock_guard<std::mutex> lock(source.mutex());
    *out = new at::Tensor(source.get_state());
  });
}

extern "C" int shim_set_random_state(int cuda_device, TensorPointer state) {
  return guarded([&] {
    auto target = generator(cuda_device);
    const std::lock_guard<std::mutex> lock(target.mutex());
    target.set_state(*state);
  });
}
