//! Ranks that die, hang, give up, never come or do not agree.

use crate::actor::{Actor, Environment, pass_id, rank, world};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn hang(what: &str) -> Environment {
    vec![("NCCL_STAND_IN_HANG", what.into())]
}

#[test]
fn a_killed_rank_fails_the_others_within_two_seconds() {
    let mut actors = world("for_ever", 3, |_| Vec::new());
    pass_id(&mut actors);
    actors.iter_mut().for_each(|actor| assert_eq!(actor.hear(), "under way"));
    actors[1].kill();
    let killed = Instant::now();
    for rank in [0, 2] {
        let error = actors[rank].hear();
        let place = format!("all_reduce_sum failed on rank {rank} of 3: remote process exited");
        assert!(error.starts_with(&place) && error.ends_with("NCCL result 6): rank 1 has died"), "{error}");
        assert_eq!(actors[rank].hear(), "fine", "how the abort went");
    }
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    actors.remove(2).succeed();
    actors.remove(0).succeed();
}

#[test]
fn connect_ends_at_its_deadline_if_a_rank_does_not_come() {
    let mut actor = rank("meet", 0, 3, Vec::new());
    let id = actor.hear();
    let error = actor.hear();
    assert_late(&error, "connect on rank 0 of 3");
    assert!(error.ends_with("(NCCL's last words: waiting for rank 1, 2 of 3)"), "{error}");
    actor.succeed();
    assert!(!file(&id).exists(), "{} stays behind", file(&id).display());
}

#[test]
fn a_rank_that_hangs_while_connecting_has_the_same_deadline() {
    let mut actors = world("meet", 2, |rank| if rank == 1 { hang("init") } else { Vec::new() });
    pass_id(&mut actors);
    for (rank, words) in ["waiting for rank 1 of 2", "told to hang by NCCL_STAND_IN_HANG"].into_iter().enumerate() {
        let error = actors[rank].hear();
        assert_late(&error, &format!("connect on rank {rank} of 2"));
        assert!(error.contains(words), "{error}");
    }
    actors.into_iter().for_each(Actor::succeed);
}

#[test]
fn a_rank_that_gives_up_fails_who_waits_for_it() {
    let mut actors = world("one_gives_up", 3, |_| Vec::new());
    pass_id(&mut actors);
    actors[..2].iter_mut().for_each(|actor| assert_eq!(actor.hear(), "waits"));
    actors[2].tell("now");
    for actor in &mut actors[..2] {
        let error = actor.hear();
        assert!(error.ends_with("rank 2 has given up"), "{error}");
    }
    assert_eq!(actors[2].hear(), "fine");
    actors.into_iter().for_each(Actor::succeed);
}

#[test]
fn an_operation_that_never_ends_has_a_deadline() {
    let mut actors = world("one_hangs", 2, |rank| if rank == 1 { hang("all_reduce") } else { Vec::new() });
    pass_id(&mut actors);
    // Whose deadline is over first gives up, and the other one may see that before its own.
    let errors = [actors[0].hear(), actors[1].hear()];
    assert!(errors.iter().any(|error| !error.ends_with("has given up")), "{errors:?}");
    for (rank, actor) in actors.iter_mut().enumerate() {
        if !errors[rank].ends_with("has given up") {
            assert_late(&errors[rank], &format!("all_reduce_sum on rank {rank} of 2"));
        }
        assert_eq!(actor.hear(), "fine", "how the abort went");
    }
    actors.into_iter().for_each(Actor::succeed);
}

#[test]
fn ranks_that_disagree_are_told_so() {
    let mut actors = world("disagree", 2, |_| Vec::new());
    pass_id(&mut actors);
    for actor in &mut actors {
        let error = actor.hear();
        assert!(
            error.contains("invalid usage") && error.ends_with("rank 1 calls all_reduce of 3 F64, rank 0 all_reduce of 2 F64"),
            "{error}"
        );
    }
    actors.into_iter().for_each(Actor::succeed);
}

#[test]
fn an_abort_that_hangs_is_left_behind() {
    let mut actors = world("abort", 1, |_| hang("abort"));
    pass_id(&mut actors);
    let error = actors[0].hear();
    assert_eq!(error, "ncclCommAbort on rank 0 of 1 did not return within 300.0ms; the communicator is leaked, end the process");
    pass_id(&mut actors);
    let milliseconds: u64 = actors[0].hear().parse().unwrap();
    assert!((600..5_000).contains(&milliseconds), "abort and drop took {milliseconds} ms");
    actors.remove(0).succeed();
}

#[test]
fn a_failed_connect_says_that_the_abort_hangs_too() {
    let mut actors = world("meet", 1, |_| [vec![("WORLD", "2".into())], hang("abort")].concat());
    let id = pass_id(&mut actors);
    let error = actors[0].hear();
    // Left behind by the communicator that is left behind.
    std::fs::remove_file(file(&id)).unwrap();
    assert!(
        error.starts_with("connect on rank 0 of 2 was not done") && error.contains("; then ncclCommAbort on rank 0"),
        "{error}"
    );
    actors.remove(0).succeed();
}

#[test]
fn finalize_has_a_deadline() {
    let mut ending = rank("end_alone", 0, 2, Vec::new());
    // One that comes, and then neither finalizes nor goes.
    let mut staying = rank("one_gives_up", 1, 2, Vec::new());
    staying.tell(&ending.hear());
    assert_late(&ending.hear(), "finalize on rank 0 of 2");
    ending.succeed();
    staying.tell("now");
    assert_eq!(staying.hear(), "fine");
}

/// The stand-in's file for an id.
fn file(id: &str) -> PathBuf {
    let name: Vec<u8> = (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect();
    Path::new("/dev/shm").join(String::from_utf8(name).unwrap().trim_end_matches('\0'))
}

/// Checks that `error` says that `what` was given up after its 300 ms, and not long after.
fn assert_late(error: &str, what: &str) {
    let waited = error.strip_prefix(what).and_then(|rest| rest.strip_prefix(" was not done after ")).unwrap_or_default();
    let (number, unit) = waited.split_at(waited.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(0));
    let seconds = number.parse().unwrap_or(0.0) * if unit.starts_with("ms") { 1e-3 } else { 1.0 };
    assert!((0.3..3.0).contains(&seconds), "{error}");
}
