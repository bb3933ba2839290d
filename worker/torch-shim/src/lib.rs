//! Placeholder until the shim proper.
#![allow(unsafe_code, missing_docs)]
use std::ffi::{CStr, c_char, c_int, c_void};
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ShimError(String);

unsafe extern "C" {
    fn shim_last_error() -> *const c_char;
    fn shim_hook(t: *mut C_tensor, f: extern "C" fn(*mut c_void), d: *mut c_void, drop: extern "C" fn(*mut c_void)) -> c_int;
    fn shim_unhook(t: *mut C_tensor) -> c_int;
    fn shim_set_grad(t: *mut C_tensor, g: *mut C_tensor) -> c_int;
    fn shim_autocast(cuda: c_int, enabled: c_int, kind: c_int, was: *mut c_int, was_kind: *mut c_int) -> c_int;
    fn shim_autocast_nest(up: c_int) -> c_int;
    fn shim_adamw(
        p: *const *mut C_tensor,
        g: *const *mut C_tensor,
        m: *const *mut C_tensor,
        v: *const *mut C_tensor,
        s: *const *mut C_tensor,
        n: usize,
        lr: f64,
        b1: f64,
        b2: f64,
        wd: f64,
        eps: f64,
        scale: *mut C_tensor,
        inf: *mut C_tensor,
    ) -> c_int;
}

fn check(code: c_int) -> Result<(), ShimError> {
    if code == 0 {
        return Ok(());
    }
    Err(ShimError(unsafe { CStr::from_ptr(shim_last_error()) }.to_string_lossy().into_owned()))
}

pub struct Hook(Tensor);
type Closure = Box<dyn Fn() + Send + Sync>;
extern "C" fn call(data: *mut c_void) {
    unsafe { (*data.cast::<Closure>())() }
}
extern "C" fn forget(data: *mut c_void) {
    drop(unsafe { Box::from_raw(data.cast::<Closure>()) })
}
pub fn post_accumulate_grad_hook(t: &Tensor, f: impl Fn() + Send + Sync + 'static) -> Result<Hook, ShimError> {
    let data = Box::into_raw(Box::new(Box::new(f) as Closure));
    check(unsafe { shim_hook(t.as_ptr().cast_mut(), call, data.cast(), forget) })?;
    Ok(Hook(t.shallow_clone()))
}
impl Drop for Hook {
    fn drop(&mut self) {
        let _ = check(unsafe { shim_unhook(self.0.as_ptr().cast_mut()) });
    }
}
pub fn set_grad(t: &Tensor, g: &Tensor) -> Result<(), ShimError> {
    check(unsafe { shim_set_grad(t.as_ptr().cast_mut(), g.as_ptr().cast_mut()) })
}

pub struct Autocast {
    cuda: c_int,
    was: c_int,
    was_kind: c_int,
}
impl Autocast {
    pub fn enter(device: Device, kind: Kind) -> Self {
        Self::set(device, 1, if kind == Kind::BFloat16 { 15 } else { 5 })
    }
    pub fn off(device: Device) -> Self {
        Self::set(device, 0, -1)
    }
    fn set(device: Device, enabled: c_int, kind: c_int) -> Self {
        let cuda = c_int::from(device != Device::Cpu);
        let (mut was, mut was_kind) = (0, 0);
        unsafe {
            shim_autocast(cuda, enabled, kind, &mut was, &mut was_kind);
            shim_autocast_nest(1);
        }
        Self { cuda, was, was_kind }
    }
}
impl Drop for Autocast {
    fn drop(&mut self) {
        let (mut a, mut b) = (0, 0);
        unsafe {
            shim_autocast(self.cuda, self.was, self.was_kind, &mut a, &mut b);
            shim_autocast_nest(0);
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct AdamWOptions {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}
#[allow(clippy::too_many_arguments)]
pub fn fused_adamw(
    p: &[Tensor],
    g: &[Tensor],
    m: &[Tensor],
    v: &[Tensor],
    s: &[Tensor],
    o: &AdamWOptions,
    scale: Option<&Tensor>,
    inf: Option<&Tensor>,
) -> Result<(), ShimError> {
    let l = |t: &[Tensor]| t.iter().map(|t| t.as_ptr().cast_mut()).collect::<Vec<_>>();
    let (p, g, m, v, s) = (l(p), l(g), l(m), l(v), l(s));
    let opt = |t: Option<&Tensor>| t.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
    check(unsafe {
        shim_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            p.len(),
            o.learning_rate,
            o.beta1,
            o.beta2,
            o.weight_decay,
            o.epsilon,
            opt(scale),
            opt(inf),
        )
    })
}

pub mod profiler {
    use super::ShimError;
    use std::path::Path;
    pub struct Range;
    pub fn record_function(_: &str) -> Result<Range, ShimError> {
        Ok(Range)
    }
    pub fn start() -> Result<(), ShimError> {
        Ok(())
    }
    pub fn stop_and_save(_: &Path) -> Result<(), ShimError> {
        Ok(())
    }
}
