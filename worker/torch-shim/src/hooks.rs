//! Hooks that run once a gradient is there, and gradients that are views of a bucket: what overlapping a reduction with backward needs.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;

use crate::error::{Result, check};
use crate::ffi::{self, pointer};

type Closure = Arc<dyn Fn() + Send + Sync>;

/// What the tensor and the [`Hook`] share; empty once the hook is dropped.
#[derive(Clone)]
struct Slot(Arc<Mutex<Option<Closure>>>);

impl Slot {
    fn get(&self) -> Option<Closure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A closure on a tensor. Dropping it takes the closure off; that may happen on any thread, also while backward runs or in the closure
/// itself: a call that has begun ends, and no other begins.
#[must_use = "dropping the hook takes it off"]
pub struct Hook(Slot);

impl Drop for Hook {
    fn drop(&mut self) {
        // A bare object stays on the tensor until the tensor goes or is hooked again: taking it away could race with backward.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Calls `closure` whenever a backward pass has added to `parameter`'s gradient: `.grad` holds the new value by then (on CUDA: its
/// kernels are queued on the current stream of the calling thread).
///
/// It is called on the thread that accumulates: on the CPU the one that called `backward`, for a CUDA device autograd's own thread of
/// that device. A panic in it ends the process.
///
/// # Errors
/// `parameter` is no leaf that requires gradients, or has a hook.
pub fn post_accumulate_grad_hook(parameter: &Tensor, closure: impl Fn() + Send + Sync + 'static) -> Result<Hook> {
    let slot = Slot(Arc::new(Mutex::new(Some(Arc::new(closure)))));
    let data = Box::into_raw(Box::new(slot.clone())).cast();
    // SAFETY: C++ takes the box, and hands it to the three functions only, `release` last and once; they do not unwind.
    check("post_accumulate_grad_hook", unsafe { ffi::shim_hook(pointer(parameter), data, call, is_gone, release) })?;
    Ok(Hook(slot))
}

/// Makes `gradient` the gradient of `parameter`: not a copy, the very tensor. Backward adds to it in place while gradients are not
/// themselves differentiated, so it stays a view of its bucket for as long as nobody sets it anew. Strides other than the parameter's
/// cost libtorch a warning and a slower addition.
///
/// # Errors
/// `parameter` is no leaf that requires gradients, or shape, kind or device differ.
pub fn set_grad(parameter: &Tensor, gradient: &Tensor) -> Result<()> {
    // SAFETY: two live tensors, of which C++ keeps its own references.
    check("set_grad", unsafe { ffi::shim_set_grad(pointer(parameter), pointer(gradient)) })
}

/// `data` as a slot.
///
/// # Safety
/// It is the pointer that [`post_accumulate_grad_hook`] has made, and not yet released.
unsafe fn slot<'a>(data: *mut c_void) -> &'a Slot {
    // SAFETY: as the caller promises.
    unsafe { &*data.cast::<Slot>() }
}

extern "C" fn call(data: *mut c_void) {
    // SAFETY: C++ calls with the pointer that it was given, before it releases it.
    let Some(closure) = unsafe { slot(data) }.get() else { return };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| closure())) {
        let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        eprintln!("a gradient hook panicked, and nothing may unwind through libtorch: {}", message.unwrap_or("no message"));
        std::process::abort();
    }
}

extern "C" fn is_gone(data: *mut c_void) -> c_int {
    // SAFETY: as in `call`.
    unsafe { slot(data) }.get().is_none().into()
}

extern "C" fn release(data: *mut c_void) {
    // SAFETY: C++ releases once, and does not use the pointer afterwards.
    drop(unsafe { Box::from_raw(data.cast::<Slot>()) });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{self, ThreadId};
    use tch::{Device, Kind};

    /// Three parameters that are used one after the other, and the loss of a chain through them.
    fn chain() -> Vec<Tensor> {
        [0.5_f32, -1.5, 2.0]
            .map(|value| Tensor::full([3], f64::from(value), (Kind::Float, Device::Cpu)).set_requires_grad(true))
            .into()
    }

    fn loss(parameters: &[Tensor]) -> Tensor {
        let input = Tensor::from_slice(&[1.0_f32, 2.0, 3.0]);
        parameters.iter().fold(input, |x, parameter| (x * parameter).tanh()).sum(Kind::Float)
    }

    fn same(left: &Tensor, right: &Tensor) -> bool {
        left.equal(right)
    }

    #[test]
    fn fire_once_per_backward_in_reverse_order_with_the_gradient_there() {
        let parameters = chain();
        // What each call saw: index, the gradient as it was then, the thread.
        let calls: Arc<Mutex<Vec<(usize, Tensor, ThreadId)>>> = Arc::default();
        let mut hooks: Vec<_> = parameters
            .iter()
            .enumerate()
            .map(|(index, parameter)| {
                let (calls, parameter) = (calls.clone(), Mutex::new(parameter.shallow_clone()));
                let record = move || {
                    let gradient = parameter.lock().unwrap().grad().copy();
                    calls.lock().unwrap().push((index, gradient, thread::current().id()));
                };
                post_accumulate_grad_hook(&parameters[index], record).unwrap()
            })
            .collect();
        for _pass in 0..2 {
            loss(&parameters).backward();
            let calls = std::mem::take(&mut *calls.lock().unwrap());
            assert_eq!(calls.iter().map(|call| call.0).collect::<Vec<_>>(), [2, 1, 0]);
            for (index, gradient, thread) in calls {
                assert!(same(&gradient, &parameters[index].grad()) && gradient.abs().min().double_value(&[]) > 0.0);
                assert_eq!(thread, thread::current().id());
            }
        }
        drop(hooks.remove(1));
        loss(&parameters).backward();
        assert_eq!(calls.lock().unwrap().iter().map(|call| call.0).collect::<Vec<_>>(), [2, 0]);
    }

    #[test]
    fn gradients_stay_views_of_their_bucket() {
        let (parameters, reference) = (chain(), chain());
        let mut bucket = Tensor::zeros([9], (Kind::Float, Device::Cpu));
        for (index, parameter) in parameters.iter().enumerate() {
            set_grad(parameter, &bucket.narrow(0, 3 * index as i64, 3)).unwrap();
        }
        for step in 0..3 {
            let _ = bucket.zero_();
            loss(&parameters).backward();
            reference.iter().for_each(|parameter| parameter.grad().defined().then(|| parameter.grad().zero_()).map_or((), drop));
            loss(&reference).backward();
            let expected = Tensor::cat(&reference.iter().map(Tensor::grad).collect::<Vec<_>>(), 0);
            assert!(same(&bucket, &expected), "step {step}");
            for (index, parameter) in parameters.iter().enumerate() {
                assert_eq!(parameter.grad().data_ptr(), bucket.narrow(0, 3 * index as i64, 1).data_ptr());
            }
            // As an optimizer would: the parameters move, in place.
            tch::no_grad(|| {
                parameters
                    .iter()
                    .chain(&reference)
                    .for_each(|parameter| drop(parameter.shallow_clone().f_sub_(&(parameter.grad() * 0.1))));
            });
        }
    }

    #[test]
    fn a_hook_may_drop_itself_and_lets_go_of_what_it_holds() {
        let parameter = Tensor::from(1.0_f32).set_requires_grad(true);
        let calls = Arc::new(AtomicUsize::new(0));
        let own: Arc<Mutex<Option<Hook>>> = Arc::default();
        let (counted, itself) = (calls.clone(), own.clone());
        let closure = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            itself.lock().unwrap().take();
        };
        *own.lock().unwrap() = Some(post_accumulate_grad_hook(&parameter, closure).unwrap());
        (&parameter * 2.0).backward();
        (&parameter * 2.0).backward();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&calls), 1);
        // The place is free again, and an attempt that fails keeps nothing either.
        let kept = calls.clone();
        let hook = post_accumulate_grad_hook(&parameter, move || drop(kept.clone())).unwrap();
        let kept = calls.clone();
        let second = post_accumulate_grad_hook(&parameter, move || drop(kept.clone())).err().unwrap();
        assert!(second.to_string().contains("has a hook already"), "{second}");
        assert_eq!(Arc::strong_count(&calls), 2);
        drop(hook);
        assert_eq!(Arc::strong_count(&calls), 1);
    }

    #[test]
    fn only_leaves_and_gradients_that_fit() {
        let leaf = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let error = post_accumulate_grad_hook(&(&leaf * 2.0), || ()).err().unwrap();
        assert!(error.to_string().contains("needs a leaf tensor"), "{error}");
        let error = set_grad(&leaf, &Tensor::zeros([6], (Kind::Float, Device::Cpu))).unwrap_err().to_string();
        assert!(error.starts_with("set_grad: ") && error.contains("[6]") && error.contains("[2, 3]"), "{error}");
        assert!(set_grad(&leaf, &Tensor::zeros([2, 3], (Kind::Double, Device::Cpu))).is_err());
    }

    #[test]
    fn a_panic_ends_the_process_with_its_message() {
        const PANICS: &str = "TORCH_SHIM_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            let parameter = Tensor::from(1.0_f32).set_requires_grad(true);
            let _hook = post_accumulate_grad_hook(&parameter, || panic!("the bucket is gone")).unwrap();
            (&parameter * 2.0).backward();
            unreachable!("backward returned past a panic");
        }
        let name = "hooks::tests::a_panic_ends_the_process_with_its_message";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(PANICS, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(6), "{said}");
        assert!(said.contains("nothing may unwind through libtorch: the bucket is gone"), "{said}");
    }
}
