//! What holds for the whole process, in a binary of its own: switches, random numbers, the profiler. One test at a time.

// A test says what it expects by panicking; clippy only knows that of functions marked #[test], not of their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use torch_shim::numerics::{self, Determinism, MatmulPrecision};
use torch_shim::profiler::{Detail, Profile, record_function};
use torch_shim::{ShimError, random};

/// Held by every test here.
fn alone() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn random_numbers_replay_bit_by_bit() {
    let _alone = alone();
    // An odd number of normals leaves one of a pair behind, which is part of the state.
    let draw = || (Tensor::randn([7], (Kind::Float, Device::Cpu)), Tensor::rand([1000], (Kind::Double, Device::Cpu)));
    tch::manual_seed(5);
    let _ = draw();
    let state = random::state(Device::Cpu).unwrap();
    assert_eq!((state.kind(), state.size()), (Kind::Uint8, vec![5056]));
    let first = draw();
    let other = draw();
    assert!(!first.1.equal(&other.1));
    random::set_state(Device::Cpu, &state).unwrap();
    let replay = draw();
    assert!(first.0.equal(&replay.0) && first.1.equal(&replay.1));
    let error = random::set_state(Device::Cpu, &state.narrow(0, 0, 16)).unwrap_err();
    assert!(matches!(error, ShimError::Libtorch { .. }), "{error}");
    assert!(random::state(Device::Cuda(999)).is_err());
}

#[test]
fn determinism_is_an_error_where_it_cannot_be_had() {
    let _alone = alone();
    let put = || {
        let index = Tensor::from_slice(&[0_i64, 0]);
        Tensor::zeros([2], (Kind::Float, Device::Cpu)).f_put_(&index, &Tensor::from_slice(&[1.0_f32, 2.0]), false)
    };
    assert_eq!(numerics::determinism().unwrap(), Determinism::Off);
    numerics::set_determinism(Determinism::Required).unwrap();
    let required = (numerics::determinism().unwrap(), put());
    numerics::set_determinism(Determinism::Preferred).unwrap();
    let preferred = (numerics::determinism().unwrap(), put());
    numerics::set_determinism(Determinism::Off).unwrap();
    assert_eq!((required.0, preferred.0), (Determinism::Required, Determinism::Preferred));
    let error = required.1.unwrap_err().to_string();
    assert!(error.contains("deterministic"), "{error}");
    assert!(preferred.1.is_ok() && put().is_ok());
}

#[test]
fn precision_is_what_was_set() {
    let _alone = alone();
    for precision in [MatmulPrecision::High, MatmulPrecision::Medium, MatmulPrecision::Highest] {
        numerics::set_matmul_precision(precision).unwrap();
        assert_eq!(numerics::matmul_precision().unwrap(), precision);
    }
    for allow in [false, true] {
        numerics::set_tf32_convolutions(allow).unwrap();
        assert_eq!(numerics::tf32_convolutions().unwrap(), allow);
    }
}

#[test]
fn a_profile_has_our_phases_and_the_operations_of_all_threads() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let profile = Profile::start(Detail::default()).unwrap();
    assert!(Profile::start(Detail::default()).is_err());
    work("phase: forward");
    std::thread::spawn(|| work("phase: reduce")).join().unwrap();
    profile.save(&path).unwrap();
    work("phase: too late");

    let events = events(&path);
    let thread = |name: &str, category: &str| {
        events.iter().find(|event| event["name"] == name && event["cat"] == category).map(|event| event["tid"].clone())
    };
    let forward = thread("phase: forward", "user_annotation").expect("the phase of this thread");
    let reduce = thread("phase: reduce", "user_annotation").expect("the phase of another thread");
    assert_ne!(forward, reduce);
    let multiplied = |tid: &Value| events.iter().any(|event| event["name"] == "aten::mm" && event["tid"] == *tid);
    assert!(multiplied(&forward) && multiplied(&reduce));
    assert_eq!(thread("phase: too late", "user_annotation"), None);

    // One that nobody saves is over, too; one that cannot be saved says so, with the path.
    drop(Profile::start(Detail::default()).unwrap());
    let error = Profile::start(Detail::default()).unwrap().save(&folder.path().join("missing/trace.json")).unwrap_err().to_string();
    assert!(error.contains("missing/trace.json"), "{error}");
    Profile::start(Detail { shapes: true, memory: true }).unwrap().save(&path).unwrap();
}

fn work(phase: &str) {
    let _range = record_function(phase);
    let ones = Tensor::ones([8, 8], (Kind::Float, Device::Cpu));
    let _ = ones.mm(&ones);
}

fn events(path: &Path) -> Vec<Value> {
    let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    trace["traceEvents"].as_array().unwrap().clone()
}
