//! What the actors play.

use crate::elements::{Element, buffer, element, elements};
use half::{bf16, f16};
use nccl_rs::{Communicator, Error, Nccl, Options, Stream, UniqueId};
use std::io::{Write, stdin, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A deadline that is not what ends a test that passes.
const LONG: Duration = Duration::from_secs(30);

/// A deadline that is.
const SHORT: Duration = Duration::from_millis(300);

#[test]
#[ignore = "a process of the other tests"]
fn play() {
    match std::env::var("PART").unwrap().as_str() {
        "load" => load(),
        "together" => together(),
        "together_once" => exchange(meet(Options::default()).unwrap(), &[5, 70_001]),
        "for_ever" => for_ever(),
        "meet" => tell(meet_within(SHORT, Options { abort_deadline: SHORT, ..Options::default() })),
        "one_gives_up" => one_gives_up(),
        "one_hangs" => one_hangs(),
        "disagree" => disagree(),
        "abort" => abort(),
        "end_alone" => tell(meet(Options::default()).unwrap().finalize(SHORT)),
        "panic_in_a_group" => panic_in_a_group(),
        "connect_without_device" => connect_without_device(),
        other => panic!("no part {other}"),
    }
}

fn number(name: &str) -> usize {
    std::env::var(name).unwrap().parse().unwrap()
}

fn say(line: &str) {
    println!("> {line}");
    stdout().flush().unwrap();
}

/// Says how something went, in one line.
fn tell<T, E: std::fmt::Display>(result: Result<T, E>) {
    say(&result.map_or_else(|error| error.to_string(), |_| "fine".into()));
}

/// Meets the other actors: rank 0 says the id, the others hear it.
fn meet(options: Options) -> Result<Communicator, Error> {
    meet_within(LONG, options)
}

fn meet_within(deadline: Duration, options: Options) -> Result<Communicator, Error> {
    let nccl = Nccl::load().unwrap();
    let rank = number("RANK");
    let id: UniqueId = if rank == 0 {
        let id = nccl.unique_id().unwrap();
        say(&id.to_string());
        id
    } else {
        let mut line = String::new();
        stdin().read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    };
    Communicator::connect(&nccl, id, rank, number("WORLD"), deadline, options)
}

fn load() {
    match Nccl::load() {
        Ok(nccl) => say(&format!("{nccl:?}")),
        Err(error) => say(&error.to_string()),
    }
}

/// Several communicators after one another, each with every type and many sizes.
fn together() {
    for _ in 0..3 {
        exchange(meet(Options::default()).unwrap(), &[0, 1, 7, 300_007]);
    }
    let mut communicator = meet(Options::default()).unwrap();
    check_sum::<f32>(&mut communicator, 2_500_003);
    check_broadcast::<f32>(&mut communicator, 2_500_003, 1);
    check_group(&mut communicator);
    communicator.finalize(LONG).unwrap();
    say("done");
}

/// Sums and broadcasts of every type, and a regular end.
fn exchange(mut communicator: Communicator, counts: &[usize]) {
    for count in counts {
        check::<u8>(&mut communicator, *count);
        check::<i64>(&mut communicator, *count);
        check::<f16>(&mut communicator, *count);
        check::<bf16>(&mut communicator, *count);
        check::<f32>(&mut communicator, *count);
        check::<f64>(&mut communicator, *count);
    }
    communicator.async_error().unwrap();
    communicator.finalize(LONG).unwrap();
    say("finalized");
}

fn check<T: Element>(communicator: &mut Communicator, count: usize) {
    check_sum::<T>(communicator, count);
    for root in 0..communicator.world() {
        check_broadcast::<T>(communicator, count, root);
    }
}

fn check_sum<T: Element>(communicator: &mut Communicator, count: usize) {
    let (world, mut values) = (communicator.world(), elements::<T>(communicator.rank(), count));
    communicator.all_reduce_sum(&buffer(&mut values), Stream::DEFAULT).unwrap();
    assert_sum(&values, world);
}

fn assert_sum<T: Element>(values: &[T], world: usize) {
    let right = |(index, value): (usize, &T)| *value == T::sum((0..world).map(|rank| element(rank, index)));
    let wrong = values.iter().enumerate().position(|at| !right(at));
    assert_eq!(wrong, None, "of {} {:?}", values.len(), T::TYPE);
}

fn check_broadcast<T: Element>(communicator: &mut Communicator, count: usize, root: usize) {
    let mut values = elements::<T>(communicator.rank(), count);
    communicator.broadcast(&buffer(&mut values), root, Stream::DEFAULT).unwrap();
    assert!(values == elements::<T>(root, count), "{count} {:?} from {root}", T::TYPE);
}

fn check_group(communicator: &mut Communicator) {
    let (rank, world) = (communicator.rank(), communicator.world());
    let (mut sums, mut ints, mut copies) = (elements::<f32>(rank, 200_001), elements::<i64>(rank, 3), elements::<u8>(rank, 9));
    let queued = communicator.group(|group| {
        group.all_reduce_sum(&buffer(&mut sums), Stream::DEFAULT)?;
        group.broadcast(&buffer(&mut copies), world - 1, Stream::DEFAULT)?;
        group.all_reduce_sum(&buffer(&mut ints), Stream::DEFAULT)?;
        Ok(3)
    });
    assert_eq!(queued.unwrap(), 3);
    assert_sum(&sums, world);
    assert_sum(&ints, world);
    assert_eq!(copies, elements::<u8>(world - 1, 9));
    let refused = communicator.group(|group| group.broadcast(&buffer(&mut copies), world, Stream::DEFAULT));
    assert!(matches!(refused, Err(Error::NoSuchRank { rank, .. }) if rank == world), "{refused:?}");
}

/// Sums 32 MB again and again, until something goes wrong: then says what, and how giving up went.
fn for_ever() {
    let mut communicator = meet(Options::default()).unwrap();
    let mut values = vec![0.0_f32; 8_000_000];
    for round in 0.. {
        if round == 3 {
            say("under way");
        }
        if let Err(error) = communicator.all_reduce_sum(&buffer(&mut values), Stream::DEFAULT) {
            say(&error.to_string());
            assert!(communicator.async_error().is_err(), "a failure stays");
            return tell(communicator.abort(LONG));
        }
    }
}

/// Rank 0 waits in an operation, the last rank gives up instead of coming.
fn one_gives_up() {
    let mut communicator = meet(Options::default()).unwrap();
    if communicator.rank() + 1 == communicator.world() {
        // Until the others wait, as the test says.
        stdin().read_line(&mut String::new()).unwrap();
        return tell(communicator.abort(LONG));
    }
    say("waits");
    tell(communicator.all_reduce_sum(&buffer(&mut [1.0_f64]), Stream::DEFAULT));
    drop(communicator);
}

/// Waits for an operation that never ends, up to its deadline.
fn one_hangs() {
    let mut communicator = meet(Options { operation_deadline: SHORT, ..Options::default() }).unwrap();
    tell(communicator.all_reduce_sum(&buffer(&mut [1.0_f64]), Stream::DEFAULT));
    tell(communicator.abort(LONG));
}

/// Every rank comes with another number of elements.
fn disagree() {
    let mut communicator = meet(Options::default()).unwrap();
    let mut values = vec![1.0_f64; communicator.rank() + 2];
    tell(communicator.all_reduce_sum(&buffer(&mut values), Stream::DEFAULT));
}

/// Ends a communicator while the library does not, once on request and once by `Drop`.
fn abort() {
    let options = Options { abort_deadline: SHORT, ..Options::default() };
    let communicator = meet(options).unwrap();
    let started = Instant::now();
    tell(communicator.abort(SHORT));
    drop(meet(options).unwrap());
    say(&started.elapsed().as_millis().to_string());
}

/// An operation that is called outside of a group has to happen, also after a group was left by a panic.
fn panic_in_a_group() {
    let mut communicator = meet(Options::default()).unwrap();
    let left = catch_unwind(AssertUnwindSafe(|| {
        let _: Result<(), Error> = communicator.group(|_| panic!("on purpose"));
    }));
    assert!(left.is_err());
    check_sum::<f32>(&mut communicator, 10);
    tell(communicator.finalize(LONG));
}

/// The ids and the error of a real NCCL on a machine without a GPU.
fn connect_without_device() {
    let nccl = Nccl::load().unwrap();
    say(&nccl.version().to_string());
    let (first, second) = (nccl.unique_id().unwrap(), nccl.unique_id().unwrap());
    assert_ne!(first, second);
    tell(Communicator::connect(&nccl, first, 0, 1, LONG, Options::default()));
}
