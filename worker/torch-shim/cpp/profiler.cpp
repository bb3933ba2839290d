// Kineto's profiler, and named ranges that appear in its traces.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>

using shim::guarded;

namespace {

// A range keeps its name: the profiler reads it again when the range ends.
struct Range {
  Range(std::string text, at::StepCallbacks&& callbacks) : name(std::move(text)), record(std::move(callbacks)) {
    record.before(std::string_view(name));
  }

  std::string name;
  at::RecordFunction record;
};

}  // namespace

extern "C" int shim_profiler_start(int shapes, int memory) {
  return guarded([&] {
    using namespace torch::profiler::impl;
    std::set<ActivityType> activities{ActivityType::CPU};
    if (at::globalContext().hasCUDA()) activities.insert(ActivityType::CUDA);
    ExperimentalConfig every_thread;
    every_thread.profile_all_threads = true;
    const ProfilerConfig config(ProfilerState::KINETO, shapes != 0, memory != 0, false, false, false, every_thread);
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities, {});
  });
}

// Ends the profile; saved where `path` is not null.
extern "C" int shim_profiler_stop(const char* path) {
  return guarded([&] {
    const auto result = torch::autograd::profiler::disableProfiler();
    if (path != nullptr) result->save(path);
  });
}

// Null where nobody listens, which costs next to nothing.
extern "C" int shim_range_begin(const char* name, size_t length, void** out) {
  return guarded([&] {
    auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
    *out = callbacks ? new Range(std::string(name, length), std::move(*callbacks)) : nullptr;
  });
}

extern "C" int shim_range_end(void* range) {
  return guarded([&] { delete static_cast<Range*>(range); });
}
