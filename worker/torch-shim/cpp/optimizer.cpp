// AdamW in one kernel per list of tensors.
#include "shim.h"

#include <ATen/ops/_fused_adamw.h>
#include <c10/core/GradMode.h>

using shim::guarded;
using shim::TensorPointer;

namespace {

struct Lists {
  std::vector<at::Tensor> parameters, gradients, exp_avg, exp_avg_sq, steps;
};

void check(const Lists& lists) {
  for (size_t index = 0; index < lists.parameters.size(); ++index) {
    const auto& parameter = lists.parameters[index];
    for (const auto* other : {&lists.gradients[index], &lists.exp_avg[index], &lists.exp_avg_sq[index]}) {
      TORCH_CHECK(other->sizes() == parameter.sizes() && other->strides() == parameter.strides() &&
                      other->scalar_type() == parameter.scalar_type() && other->device() == parameter.device(),
                  "fused AdamW: gradient and moments of parameter ", index, " need its shape, strides, kind and device: ",
                  parameter.toString(), parameter.sizes(), " and ", other->toString(), other->sizes());
    }
    const auto& step = lists.steps[index];
    TORCH_CHECK(step.numel() == 1 && step.scalar_type() == at::kFloat && step.device() == parameter.device(),
                "fused AdamW: the count of updates of parameter ", index, " has to be one f32 element on its device");
  }
}

void check_one_float(const std::optional<at::Tensor>& tensor, const char* name) {
  TORCH_CHECK(!tensor || (tensor->numel() == 1 && tensor->scalar_type() == at::kFloat), "fused AdamW: ", name,
              " has to be a tensor of one f32 element");
}

}  // namespace

// `lists` holds parameters, gradients, first moments, second moments and steps, `count` tensors each.
extern "C" int shim_fused_adamw(const TensorPointer* lists, size_t count, double learning_rate, TensorPointer learning_rate_tensor,
                                double beta1, double beta2, double weight_decay, double epsilon, TensorPointer grad_scale,
                                TensorPointer found_inf) {
  return guarded([&] {
    const c10::NoGradGuard no_grad;
    const auto part = [&](size_t index) { return shim::list(lists + index * count, count); };
    Lists state{part(0), part(1), part(2), part(3), part(4)};
    const auto scale = shim::optional(grad_scale), infinite = shim::optional(found_inf);
    check(state);
    check_one_float(scale, "grad_scale");
    check_one_float(infinite, "found_inf");
    for (auto& step : state.steps) step.add_(1);
    if (learning_rate_tensor != nullptr) {
      at::_fused_adamw_(state.parameters, state.gradients, state.exp_avg, state.exp_avg_sq, {}, state.steps, *learning_rate_tensor,
                        beta1, beta2, weight_decay, epsilon, false, false, scale, infinite);
    } else {
      at::_fused_adamw_(state.parameters, state.gradients, state.exp_avg, state.exp_avg_sq, {}, state.steps, learning_rate, beta1,
                        beta2, weight_decay, epsilon, false, false, scale, infinite);
    }
    if (infinite) {
      for (auto& step : state.steps) step.sub_(*infinite);
    }
  });
}
