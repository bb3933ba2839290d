// What all files of the shim share: how a C++ exception becomes a status and a message, and lists of tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <exception>
#include <optional>
#include <string>
#include <vector>

namespace shim {

// The values are those of `Outcome` in src/error.rs.
enum Outcome : int { DONE = 0, FAILED = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 3 };

// Thrown where a GPU is needed and none can be used. The Rust side finds out why.
struct NoDevice {};

// The message of the last failure on this thread.
std::string& last_error() noexcept;

int failed(int outcome, const char* message) noexcept;

// Runs `body`. Nothing unwinds out of here into Rust.
template <class Body>
int guarded(Body&& body) noexcept {
  try {
    body();
    return DONE;
  } catch (const NoDevice&) {
    return NO_DEVICE;
  } catch (const c10::OutOfMemoryError& error) {
    return failed(OUT_OF_MEMORY, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return failed(FAILED, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return failed(FAILED, error.what());
  } catch (...) {
    return failed(FAILED, "an exception of unknown type");
  }
}

// `at::Tensor*` as tch has them.
using TensorPointer = at::Tensor*;

inline std::vector<at::Tensor> list(const TensorPointer* tensors, size_t count) {
  std::vector<at::Tensor> values;
  values.reserve(count);
  for (size_t index = 0; index < count; ++index) values.push_back(*tensors[index]);
  return values;
}

inline std::optional<at::Tensor> optional(TensorPointer tensor) {
  return tensor == nullptr ? std::nullopt : std::optional<at::Tensor>(*tensor);
}

}  // namespace shim
