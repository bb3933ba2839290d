//! The CUDA half: on a GPU that it does what it says, without one that every call says why not. A binary of its own: it fills and
//! empties caches, and changes the streams of the thread.

// A test says what it expects by panicking; clippy only knows that of functions marked #[test], not of their helpers.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tch::{Device, Kind, Tensor};
use torch_shim::cuda::{self, Capture, CudaStatus, Event, Pool, Priority, Stream};
use torch_shim::optimizer::{AdamWTensors, LossScaling};
use torch_shim::{AdamW, Autocast, BUILT_WITH_CUDA, LearningRate, ShimError, memory, random};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cuda(0));

/// The GPU, for `test` alone; where there is none, says that the test is skipped, past the capture of a test's output.
fn gpu(test: &str) -> Option<MutexGuard<'static, ()>> {
    static GPU: Mutex<()> = Mutex::new(());
    let status = cuda::status();
    if let CudaStatus::Devices(_) = status {
        return Some(GPU.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let line = format!("skipped torch_shim::cuda::{test}: {status}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

#[test]
fn without_a_gpu_every_call_says_why() {
    let status = cuda::status();
    if let CudaStatus::Devices(_) = status {
        return;
    }
    assert_eq!(status == CudaStatus::NotBuilt, !BUILT_WITH_CUDA && cuda::runtime_version().is_some());
    let tensor = Tensor::from(1.0_f32);
    let outcomes = [
        ("Stream::from_pool", Stream::from_pool(0, Priority::High).err()),
        ("Stream::default_of", Stream::default_of(0).err()),
        ("Stream::current", Stream::current(usize::MAX).err()),
        ("Event::new", Event::new().err()),
        ("Event::with_timing", Event::with_timing().err()),
        ("Pool::new", Pool::new().err()),
        ("cuda::memory", cuda::memory(0).err()),
        ("cuda::reset_peak_memory", cuda::reset_peak_memory(0).err()),
        ("cuda::empty_cache", cuda::empty_cache().err()),
        ("cuda::properties", cuda::properties(0).err()),
        ("empty_pinned", memory::empty_pinned(&[1], Kind::Float).err()),
        ("pin", memory::pin(&tensor).err()),
        ("random::state", random::state(Device::Cuda(0)).err()),
    ];
    for (call, error) in outcomes {
        assert_eq!(error, Some(ShimError::NoDevice { call, status: status.clone() }));
    }
    // A region for a device that is not there harms nobody: code need not ask first.
    drop(Autocast::enter(Device::Cuda(0), Kind::BFloat16).unwrap());
}

#[test]
fn the_runtime_of_libtorch_is_found_without_linking_it() {
    // libtorch_cuda brings the runtime; no driver is needed to ask for its version.
    if BUILT_WITH_CUDA {
        assert!(cuda::runtime_version().is_some_and(|version| version.0 >= 12_000), "{:?}", cuda::runtime_version());
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.contains("libcudart.so"), cuda::runtime_version().is_some());
}

#[test]
fn streams_wait_for_events() {
    let Some(_alone) = gpu("streams_wait_for_events") else { return };
    let main = Stream::current(0).unwrap();
    let side = Stream::from_pool(0, Priority::High).unwrap();
    assert_ne!(main, side);
    let ones = Tensor::ones([4096, 4096], FLOAT);
    let (mut start, mut ready, mut done) = (Event::with_timing().unwrap(), Event::new().unwrap(), Event::with_timing().unwrap());
    assert!(ready.query().unwrap(), "never recorded");
    start.record(main).unwrap();
    let product = (0..8).fold(ones.shallow_clone(), |x, _| x.matmul(&ones) / 4096.0);
    ready.record(main).unwrap();
    side.wait(&ready).unwrap();
    let sum = {
        let _guard = side.make_current().unwrap();
        assert_eq!(Stream::current(0).unwrap(), side);
        assert!(!side.handle().unwrap().is_null());
        cuda::record_stream(&product, side).unwrap();
        product.sum(Kind::Double)
    };
    assert_eq!(Stream::current(0).unwrap(), main);
    done.record(side).unwrap();
    done.synchronize().unwrap();
    assert!(ready.query().unwrap() && side.query().unwrap());
    assert!(done.elapsed_since(&start).unwrap() > 0.0);
    assert!(ready.elapsed_since(&start).is_err(), "without timing");
    assert_eq!(sum.double_value(&[]), 4096.0 * 4096.0);
}

#[test]
fn a_graph_replays_on_new_inputs_while_other_threads_work() {
    let Some(_alone) = gpu("a_graph_replays_on_new_inputs_while_other_threads_work") else { return };
    let side = Stream::from_pool(0, Priority::Normal).unwrap();
    let mut input = Tensor::zeros([1024], FLOAT);
    let work = |x: &Tensor| (x * 2.0 + 1.0).sqrt();
    assert!(Capture::begin(Pool::new().unwrap()).is_err(), "the default stream");
    let (mut graph, output) = {
        let _guard = side.make_current().unwrap();
        let _warm = work(&input);
        side.synchronize().unwrap();
        let capture = Capture::begin(Pool::new().unwrap()).unwrap();
        let output = work(&input);
        // What would break a capture of global mode: an allocation and a wait.
        thread::spawn(|| Tensor::ones([1 << 24], FLOAT).sum(Kind::Float).double_value(&[])).join().unwrap();
        (capture.end().unwrap(), output)
    };
    for value in [4.0, 12.0] {
        let _ = input.fill_(value);
        graph.replay().unwrap();
        assert_eq!(output.double_value(&[7]), f64::from((value as f32 * 2.0 + 1.0).sqrt()));
    }
    let _guard = side.make_current().unwrap();
    drop(Capture::begin(Pool::new().unwrap()).unwrap());
    let _ = input.normal_(0.0, 1.0);
    let broken = Capture::begin(Pool::new().unwrap()).unwrap();
    // A read by the host is forbidden in a capture.
    assert!(work(&input).f_double_value(&[0]).is_err());
    assert!(broken.end().is_err());
    // Streams, allocators and generators are as before.
    assert!(work(&input.rand_like()).double_value(&[0]) > 0.0);
}

/// As a training step is captured: the gradients with a sum that another thread queues on a stream of its own while backward runs, then the
/// update, which reads its rate on the device.
#[test]
fn a_backward_pass_and_an_update_are_two_graphs_of_one_pool() {
    let Some(_alone) = gpu("a_backward_pass_and_an_update_are_two_graphs_of_one_pool") else { return };
    let _guard = Stream::from_pool(0, Priority::Normal).unwrap().make_current().unwrap();
    let (parameter, bucket) = (Tensor::zeros([1024], FLOAT).set_requires_grad(true), Tensor::zeros([1024], FLOAT));
    let (mut input, mut rate) = (Tensor::ones([1024], FLOAT), Tensor::ones([1], FLOAT));
    torch_shim::set_grad(&parameter, &bucket).unwrap();
    let (ready, asked) = channel::<Event>();
    let (done, answers) = channel::<Event>();
    let addend = bucket.shallow_clone();
    let other = thread::spawn(move || {
        let lane = Stream::from_pool(0, Priority::High).unwrap();
        let _guard = lane.make_current().unwrap();
        for event in asked {
            lane.wait(&event).unwrap();
            let _ = tch::no_grad(|| addend.shallow_clone().g_mul_scalar_(0.5));
            done.send(recorded(lane)).unwrap();
        }
    });
    let ready = Mutex::new(ready);
    let ask = move || ready.lock().unwrap().send(recorded(Stream::current(0).unwrap())).unwrap();
    let hook = torch_shim::post_accumulate_grad_hook(&parameter, ask).unwrap();
    let gradients = || {
        let _ = bucket.shallow_clone().zero_();
        let loss = (&parameter * &input).sum(Kind::Float);
        loss.backward();
        Stream::current(0).unwrap().wait(&answers.recv().unwrap()).unwrap();
        loss.detach()
    };
    let update = || drop(tch::no_grad(|| parameter.shallow_clone().g_sub_(&(&rate * &bucket))));
    let pool = Pool::new().unwrap();
    let _warm = gradients();
    let capture = Capture::begin(pool).unwrap();
    let loss = gradients();
    let mut first = capture.end().unwrap();
    let capture = Capture::begin(pool).unwrap();
    update();
    let mut second = capture.end().unwrap();
    assert_eq!(parameter.double_value(&[7]), 0.0, "a capture does nothing");
    for (fresh, step, expected) in [(2.0, 1.0, [0.0, -1.0]), (4.0, 0.5, [-4096.0, -2.0])] {
        let _ = (input.fill_(fresh), rate.fill_(step));
        first.replay().unwrap();
        assert_eq!(bucket.double_value(&[7]), fresh / 2.0);
        second.replay().unwrap();
        assert_eq!([loss.double_value(&[]), parameter.double_value(&[7])], expected);
    }
    drop(hook);
    other.join().unwrap();
}

/// A mark behind what `stream` has queued.
fn recorded(stream: Stream) -> Event {
    let mut event = Event::new().unwrap();
    event.record(stream).unwrap();
    event
}

#[test]
fn memory_and_properties_are_those_of_the_device() {
    let Some(_alone) = gpu("memory_and_properties_are_those_of_the_device") else { return };
    let properties = cuda::properties(0).unwrap();
    println!("{properties:?}");
    assert!(!properties.name.is_empty() && properties.capability.0 >= 5 && properties.multiprocessors > 0);
    assert_eq!(properties.pci_bus_id.len(), 12);
    let before = cuda::memory(0).unwrap();
    assert!(before.total <= properties.total_memory && before.free <= before.total);
    let tensor = Tensor::zeros([64 << 20], (Kind::Uint8, Device::Cuda(0)));
    let with = cuda::memory(0).unwrap();
    assert!(with.allocated >= 64 << 20 && with.reserved >= with.allocated && with.peak_allocated >= with.allocated);
    drop(tensor);
    cuda::empty_cache().unwrap();
    cuda::reset_peak_memory(0).unwrap();
    let error = cuda::memory(99).unwrap_err().to_string();
    assert!(error.contains("no CUDA device 99"), "{error}");
}

#[test]
fn hooks_run_on_the_thread_of_the_device_and_may_queue_on_another_stream() {
    let Some(_alone) = gpu("hooks_run_on_the_thread_of_the_device_and_may_queue_on_another_stream") else { return };
    let parameter = Tensor::ones([1 << 20], FLOAT).set_requires_grad(true);
    let bucket = Tensor::zeros([1 << 20], FLOAT);
    torch_shim::set_grad(&parameter, &bucket).unwrap();
    let side = Stream::from_pool(0, Priority::High).unwrap();
    let state = Mutex::new((Event::new().unwrap(), bucket.shallow_clone()));
    let seen = Arc::new(Mutex::new(None));
    let caller = seen.clone();
    let closure = move || {
        let (event, bucket) = &mut *state.lock().unwrap();
        event.record(Stream::current(0).unwrap()).unwrap();
        side.wait(event).unwrap();
        let _guard = side.make_current().unwrap();
        let _ = tch::no_grad(|| bucket.g_mul_scalar_(0.5));
        *caller.lock().unwrap() = Some(thread::current().id());
    };
    let _hook = torch_shim::post_accumulate_grad_hook(&parameter, closure).unwrap();
    (&parameter * 6.0).sum(Kind::Float).backward();
    side.synchronize().unwrap();
    assert_eq!((bucket.min().double_value(&[]), bucket.max().double_value(&[])), (3.0, 3.0));
    assert_ne!(*seen.lock().unwrap(), Some(thread::current().id()));
}

#[test]
fn computes_as_the_cpu_does() {
    let Some(_alone) = gpu("computes_as_the_cpu_does") else { return };
    let update = |device: Device| {
        let float = |value: f64| Tensor::full([1], value, (Kind::Float, device));
        let values = (Tensor::arange(100_003, (Kind::Float, Device::Cpu)) * 0.7).sin().to_device(device);
        let lists = [values.copy(), &values * 512.0, values.zeros_like(), values.zeros_like(), float(0.0)].map(|tensor| [tensor]);
        let [parameters, gradients, exp_avg, exp_avg_sq, steps] = &lists;
        let tensors = AdamWTensors { parameters, gradients, exp_avg, exp_avg_sq, steps };
        let adamw = AdamW { beta1: 0.9, beta2: 0.99, weight_decay: 0.1, epsilon: 1e-8 };
        let (scale, fine, overflow, rate) = (float(512.0), float(0.0), float(1.0), float(1e-2));
        for found_inf in [&fine, &overflow] {
            let scaling = LossScaling { grad_scale: Some(&scale), found_inf: Some(found_inf) };
            torch_shim::fused_adamw(tensors, LearningRate::Tensor(&rate), adamw, scaling).unwrap();
        }
        assert_eq!(steps[0].double_value(&[0]), 1.0);
        parameters[0].to_device(Device::Cpu)
    };
    let difference = (update(Device::Cpu) - update(Device::Cuda(0))).abs().max().double_value(&[]);
    assert!(difference < 1e-6, "{difference}");

    let ones = Tensor::ones([64, 64], FLOAT);
    let _region = Autocast::enter(Device::Cuda(0), Kind::BFloat16).unwrap();
    assert_eq!(ones.matmul(&ones).kind(), Kind::BFloat16);
}

#[test]
fn pinned_memory_and_random_numbers_go_to_and_fro() {
    let Some(_alone) = gpu("pinned_memory_and_random_numbers_go_to_and_fro") else { return };
    let state = random::state(Device::Cuda(0)).unwrap();
    let first = Tensor::randn([1000], FLOAT);
    let mut host = memory::empty_pinned(&[1000], Kind::Float).unwrap();
    memory::copy_non_blocking(&mut host, &first).unwrap();
    Stream::current(0).unwrap().synchronize().unwrap();
    assert!(host.equal(&first.to_device(Device::Cpu)));
    random::set_state(Device::Cuda(0), &state).unwrap();
    assert!(Tensor::randn([1000], FLOAT).equal(&first));
    let mut device = Tensor::zeros([1000], FLOAT);
    memory::copy_non_blocking(&mut device, &memory::pin(&host).unwrap()).unwrap();
    assert!(device.equal(&first));
}
