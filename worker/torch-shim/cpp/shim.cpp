#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <string>
static thread_local std::string last;
#define TRY(...) try { __VA_ARGS__; return 0; } catch (const std::exception& e) { last = e.what(); return 1; }
extern "C" {
const char* shim_last_error() { return last.c_str(); }
struct Hook : public torch::autograd::PostAccumulateGradHook {
  void (*f)(void*); void* d; void (*drop)(void*);
  Hook(void (*f)(void*), void* d, void (*drop)(void*)) : f(f), d(d), drop(drop) {}
  ~Hook() override { drop(d); }
  void operator()(const torch::autograd::Variable&) override { f(d); }
};
int shim_hook(at::Tensor* t, void (*f)(void*), void* d, void (*drop)(void*)) {
  TRY(torch::autograd::impl::set_post_acc_grad_hooks(*t, std::make_unique<Hook>(f, d, drop)))
}
int shim_unhook(at::Tensor* t) { TRY(torch::autograd::impl::set_post_acc_grad_hooks(*t, nullptr)) }
int shim_set_grad(at::Tensor* t, at::Tensor* g) { TRY(t->mutable_grad() = *g) }
int shim_autocast(int cuda, int enabled, int kind, int* was, int* was_kind) {
  TRY({
    auto dev = cuda ? at::kCUDA : at::kCPU;
    *was = at::autocast::is_autocast_enabled(dev);
    *was_kind = (int)at::autocast::get_autocast_dtype(dev);
    if (kind >= 0) at::autocast::set_autocast_dtype(dev, (at::ScalarType)kind);
    at::autocast::set_autocast_enabled(dev, enabled);
  })
}
int shim_autocast_nest(int up) { TRY({ if (up) at::autocast::increment_nesting(); else if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache(); }) }
static std::vector<at::Tensor> list(at::Tensor** p, size_t n) { std::vector<at::Tensor> v; for (size_t i = 0; i < n; i++) v.push_back(*p[i]); return v; }
int shim_adamw(at::Tensor** p, at::Tensor** g, at::Tensor** m, at::Tensor** v, at::Tensor** s, size_t n, double lr, double b1, double b2, double wd, double eps, at::Tensor* scale, at::Tensor* inf) {
  TRY({
    std::optional<at::Tensor> sc, fi; if (scale) sc = *scale; if (inf) fi = *inf;
    at::NoGradGuard guard;
    at::_fused_adamw_(list(p, n), list(g, n), list(m, n), list(v, n), {}, list(s, n), lr, b1, b2, wd, eps, false, false, sc, fi);
  })
}
}
