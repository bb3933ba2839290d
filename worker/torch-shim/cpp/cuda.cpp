// Streams, events, graphs, memory and properties of GPUs. Calls libc10_cuda and libtorch_cuda, never the CUDA runtime: see build.rs.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <memory>
#include <string>
#include <tuple>

using at::cuda::CUDAGraph;
using c10::cuda::CUDAStream;
using shim::guarded;
using shim::TensorPointer;

namespace {

// CUDA is started, or it is an exception that says why not.
void require_cuda() {
  if (c10::cuda::device_count() == 0) throw shim::NoDevice();
  at::globalContext().lazyInitDevice(at::kCUDA);
}

c10::DeviceIndex require_device(int device) {
  require_cuda();
  const int count = c10::cuda::device_count();
  TORCH_CHECK(device >= 0 && device < count, "there is no CUDA device ", device, ": this process sees ", count);
  return static_cast<c10::DeviceIndex>(device);
}

CUDAStream stream(int device, int64_t id) {
  const c10::Device on(at::kCUDA, require_device(device));
  return CUDAStream(CUDAStream::UNCHECKED, c10::Stream(c10::Stream::UNSAFE, on, id));
}

c10::Event& event(void* pointer) { return *static_cast<c10::Event*>(pointer); }

template <class Body>
bool succeeds(Body&& body) noexcept {
  return guarded(body) == shim::DONE;
}

// libtorch's graph, and what it leaves out where a capture fails: its allocators would go on asking a graph that may be gone whether to
// allocate for it, and its generators would go on refusing to draw outside of a capture.
struct Graph final : CUDAGraph {
  void begin(at::MempoolId_t pool) {
    const auto stream = c10::cuda::getCurrentCUDAStream();
    // libtorch asks this only after it has told its generators.
    TORCH_CHECK(stream != c10::cuda::getDefaultCUDAStream(), "the default stream cannot be captured: make one from the pool current");
    TORCH_CHECK(!underway.exchange(true), "another capture goes on in this process");
    mempool_id_ = pool;
    capture_dev_ = c10::cuda::current_device();
    try {
      // Thread-local mode: what other threads do meanwhile does not break the capture, nor is it captured.
      capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      clean_up();
      throw;
    }
    capturing_ = true;
  }

  void end() {
    TORCH_CHECK(c10::cuda::getCurrentCUDAStream(capture_dev_) == capture_stream_, "a capture ends on the stream on which it began");
    capturing_ = false;
    try {
      capture_end();
    } catch (...) {
      clean_up();
      throw;
    }
    underway = false;
  }

  // Ends a capture that nobody wants, from whatever stream is current.
  void abandon() noexcept {
    if (!capturing_) return;
    succeeds([&] {
      const auto device = c10::cuda::current_device();
      const auto stream = c10::cuda::getCurrentCUDAStream(capture_dev_);
      c10::cuda::set_device(capture_dev_);
      c10::cuda::setCurrentCUDAStream(capture_stream_);
      succeeds([&] { end(); });
      c10::cuda::setCurrentCUDAStream(stream);
      c10::cuda::set_device(device);
    });
  }

 private:
  void clean_up() noexcept {
    for (const auto& generator : captured_generator_states_) generator.first->capturing_ = false;
    // Where the allocators have ended already they say so, and there is nothing to do.
    auto* device = c10::cuda::CUDACachingAllocator::get();
    if (succeeds([&] { device->endAllocateToPool(capture_dev_, mempool_id_); }) && !capture_ended_) {
      succeeds([&] { device->releasePool(capture_dev_, mempool_id_); });
    }
    auto* host = at::getHostAllocator(at::kCUDA);
    if (succeeds([&] { host->end_allocate_to_pool(mempool_id_); }) && !capture_ended_) {
      succeeds([&] { host->release_pool(mempool_id_); });
    }
    underway = false;
  }

  static inline std::atomic<bool> underway{false};
  bool capturing_ = false;
};

Graph& graph(void* pointer) { return *static_cast<Graph*>(pointer); }

}  // namespace

extern "C" int shim_stream_from_pool(int device, int high_priority, int64_t* id) {
  return guarded([&] { *id = c10::cuda::getStreamFromPool(high_priority != 0, require_device(device)).id(); });
}

extern "C" int shim_stream_default(int device, int64_t* id) {
  return guarded([&] { *id = c10::cuda::getDefaultCUDAStream(require_device(device)).id(); });
}

extern "C" int shim_stream_current(int device, int64_t* id) {
  return guarded([&] { *id = c10::cuda::getCurrentCUDAStream(require_device(device)).id(); });
}

// Also makes the stream's device the current one. Says what both were.
extern "C" int shim_stream_make_current(int device, int64_t id, int* previous_device, int64_t* previous_id) {
  return guarded([&] {
    const auto next = stream(device, id);
    *previous_device = c10::cuda::current_device();
    *previous_id = c10::cuda::getCurrentCUDAStream(next.device_index()).id();
    c10::cuda::set_device(next.device_index());
    c10::cuda::setCurrentCUDAStream(next);
  });
}

extern "C" int shim_stream_restore(int device, int64_t id, int current_device) {
  return guarded([&] {
    c10::cuda::setCurrentCUDAStream(stream(device, id));
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(current_device));
  });
}

extern "C" int shim_stream_query(int device, int64_t id, int* done) {
  return guarded([&] { *done = stream(device, id).query(); });
}

extern "C" int shim_stream_synchronize(int device, int64_t id) {
  return guarded([&] { stream(device, id).synchronize(); });
}

extern "C" int shim_stream_handle(int device, int64_t id, void** handle) {
  return guarded([&] { *handle = stream(device, id).stream(); });
}

extern "C" int shim_stream_wait(int device, int64_t id, void* waited_for) {
  return guarded([&] { event(waited_for).block(stream(device, id)); });
}

extern "C" int shim_record_stream(TensorPointer tensor, int device, int64_t id) {
  return guarded([&] {
    TORCH_CHECK(tensor->is_cuda(), "the tensor is on ", tensor->device(), ", not on a GPU");
    tensor->record_stream(stream(device, id));
  });
}

extern "C" int shim_event_new(int timing, void** out) {
  return guarded([&] {
    require_cuda();
    *out = new c10::Event(at::kCUDA, timing ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT);
  });
}

extern "C" int shim_event_delete(void* pointer) {
  return guarded([&] { delete &event(pointer); });
}

extern "C" int shim_event_record(void* pointer, int device, int64_t id) {
  return guarded([&] { event(pointer).record(stream(device, id)); });
}

extern "C" int shim_event_query(void* pointer, int* done) {
  return guarded([&] { *done = event(pointer).query(); });
}

extern "C" int shim_event_synchronize(void* pointer) {
  return guarded([&] { event(pointer).synchronize(); });
}

extern "C" int shim_event_elapsed(void* start, void* end, double* milliseconds) {
  return guarded([&] { *milliseconds = event(start).elapsedTime(event(end)); });
}

extern "C" int shim_graph_pool(unsigned long long* first, unsigned long long* second) {
  return guarded([&] {
    require_cuda();
    std::tie(*first, *second) = at::cuda::graph_pool_handle();
  });
}

extern "C" int shim_graph_begin(unsigned long long first, unsigned long long second, void** out) {
  return guarded([&] {
    require_cuda();
    auto captured = std::make_unique<Graph>();
    captured->begin({first, second});
    *out = captured.release();
  });
}

extern "C" int shim_graph_end(void* pointer) {
  return guarded([&] { graph(pointer).end(); });
}

extern "C" int shim_graph_replay(void* pointer) {
  return guarded([&] { graph(pointer).replay(); });
}

extern "C" int shim_graph_delete(void* pointer) {
  return guarded([&] {
    graph(pointer).abandon();
    delete &graph(pointer);
  });
}

// The fields are those of `Memory` in src/cuda/device.rs.
struct Memory {
  uint64_t free, total, allocated, reserved, peak_allocated, peak_reserved;
};

extern "C" int shim_memory(int device, Memory* out) {
  return guarded([&] {
    const auto index = require_device(device);
    auto* allocator = c10::getDeviceAllocator(at::kCUDA);
    const auto [free, total] = allocator->getMemoryInfo(index);
    const auto stats = allocator->getDeviceStats(index);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto bytes = [](int64_t value) { return static_cast<uint64_t>(value); };
    const auto &allocated = stats.allocated_bytes[all], &reserved = stats.reserved_bytes[all];
    *out = {free, total, bytes(allocated.current), bytes(reserved.current), bytes(allocated.peak), bytes(reserved.peak)};
  });
}

extern "C" int shim_reset_peak_memory(int device) {
  return guarded([&] { c10::getDeviceAllocator(at::kCUDA)->resetPeakStats(require_device(device)); });
}

extern "C" int shim_empty_cache() {
  return guarded([&] {
    require_cuda();
    c10::getDeviceAllocator(at::kCUDA)->emptyCache();
  });
}

// The fields are those of `RawProperties` in src/cuda/device.rs.
struct Properties {
  char name[256];
  int major, minor, multiprocessors, pci_domain, pci_bus, pci_device;
  uint64_t total_memory;
};

extern "C" int shim_properties(int device, Properties* out) {
  return guarded([&] {
    const auto index = require_device(device);
    // The layout of the runtime's struct changes with its major version.
    const auto theirs = at::detail::getCUDAHooks().versionCUDART();
    TORCH_CHECK(CUDART_VERSION / 1000 == theirs / 1000, "the shim is compiled with the headers of CUDA ", CUDART_VERSION / 1000,
                ", and libtorch with those of CUDA ", theirs / 1000, ": unset CUDA_HOME and build again");
    const auto* from = at::cuda::getDeviceProperties(index);
    *out = Properties{};
    std::string(from->name).copy(out->name, sizeof out->name - 1);
    out->major = from->major;
    out->minor = from->minor;
    out->multiprocessors = from->multiProcessorCount;
    out->pci_domain = from->pciDomainID;
    out->pci_bus = from->pciBusID;
    out->pci_device = from->pciDeviceID;
    out->total_memory = from->totalGlobalMem;
  });
}
