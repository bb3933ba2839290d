// Layouts, pinned host memory, and copies that do not wait.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>

using shim::guarded;
using shim::TensorPointer;

namespace {

at::MemoryFormat format(int channels_last) { return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous; }

// libtorch would first try to start CUDA, and speak of that.
void require_device() {
  if (!at::globalContext().hasCUDA()) throw shim::NoDevice();
}

}  // namespace

extern "C" int shim_contiguous(TensorPointer tensor, int channels_last, TensorPointer* out) {
  return guarded([&] { *out = new at::Tensor(tensor->contiguous(format(channels_last))); });
}

extern "C" int shim_is_contiguous(TensorPointer tensor, int channels_last, int* out) {
  return guarded([&] { *out = tensor->is_contiguous(format(channels_last)); });
}

extern "C" int shim_copy_non_blocking(TensorPointer destination, TensorPointer source) {
  return guarded([&] { destination->copy_(*source, true); });
}

extern "C" int shim_empty_pinned(const int64_t* shape, size_t dimensions, int kind, TensorPointer* out) {
  return guarded([&] {
    require_device();
    const auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).pinned_memory(true);
    *out = new at::Tensor(at::empty(at::IntArrayRef(shape, dimensions), options));
  });
}

extern "C" int shim_pin(TensorPointer tensor, TensorPointer* out) {
  return guarded([&] {
    require_device();
    *out = new at::Tensor(tensor->pin_memory());
  });
}
