// Hooks that run once a gradient has been accumulated, and gradients that are views of somebody else's memory.
#include "shim.h"

#include <torch/csrc/autograd/variable.h>

using shim::guarded;
using shim::TensorPointer;

namespace {

// The closure of the Rust side: how to run it, whether it is gone already, how to let go of it.
struct Closure {
  void* data;
  void (*call)(void*);
  int (*is_gone)(void*);
  void (*release)(void*);
};

struct RustHook final : torch::autograd::PostAccumulateGradHook {
  explicit RustHook(Closure closure) : closure(closure) {}
  ~RustHook() override { closure.release(closure.data); }
  RustHook(const RustHook&) = delete;
  RustHook& operator=(const RustHook&) = delete;
  void operator()(const at::Tensor&) override { closure.call(closure.data); }

  Closure closure;
};

void require_leaf(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.is_leaf() && tensor.requires_grad(), what,
              " needs a leaf tensor that requires gradients (a parameter)");
}

}  // namespace

// Takes `data`, also where it fails.
extern "C" int shim_hook(TensorPointer tensor, void* data, void (*call)(void*), int (*is_gone)(void*), void (*release)(void*)) {
  return guarded([&] {
    auto hook = std::make_unique<RustHook>(Closure{data, call, is_gone, release});
    require_leaf(*tensor, "a hook");
    const auto& present = torch::autograd::impl::post_acc_grad_hooks(*tensor);
    if (present) {
      const auto* ours = dynamic_cast<const RustHook*>(present.get());
      TORCH_CHECK(ours != nullptr && ours->closure.is_gone(ours->closure.data), "this tensor has a hook already: drop that one first");
    }
    torch::autograd::impl::set_post_acc_grad_hooks(*tensor, std::move(hook));
  });
}

extern "C" int shim_set_grad(TensorPointer tensor, TensorPointer gradient) {
  return guarded([&] {
    require_leaf(*tensor, "setting a gradient");
    TORCH_CHECK(gradient->defined() && gradient->sizes() == tensor->sizes() && gradient->scalar_type() == tensor->scalar_type() &&
                    gradient->device() == tensor->device(),
                "a gradient has the shape, kind and device of its tensor: ", gradient->toString(), gradient->sizes(), " on ",
                gradient->device(), " for ", tensor->toString(), tensor->sizes(), " on ", tensor->device());
    TORCH_CHECK(!gradient->requires_grad(), "a gradient that is accumulated in place must not require gradients itself");
    tensor->mutable_grad() = *gradient;
  });
}
