// Automatic mixed precision: the state is per thread and per type of device.
#include "shim.h"

#include <ATen/autocast_mode.h>

using shim::guarded;

namespace {

at::DeviceType device_type(int cuda) { return cuda ? at::kCUDA : at::kCPU; }

}  // namespace

// Sets the state, and says what it was. `kind`, an `at::ScalarType`, is left alone where it is negative.
extern "C" int shim_autocast_enter(int cuda, int enabled, int kind, int* was_enabled, int* previous_kind) {
  return guarded([&] {
    const auto type = device_type(cuda);
    *was_enabled = at::autocast::is_autocast_enabled(type);
    *previous_kind = static_cast<int>(at::autocast::get_autocast_dtype(type));
    at::autocast::set_autocast_enabled(type, enabled != 0);
    if (kind >= 0) at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(kind));
    at::autocast::increment_nesting();
  });
}

// Puts the state back; the outermost region of a thread forgets the weights that were cast in it.
extern "C" int shim_autocast_leave(int cuda, int was_enabled, int previous_kind) {
  return guarded([&] {
    const auto type = device_type(cuda);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type, was_enabled != 0);
    at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(previous_kind));
  });
}
