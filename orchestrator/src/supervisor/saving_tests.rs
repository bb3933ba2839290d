//! SV-9: a checkpoint out of turn is owed to whoever has asked until one is there that was begun after that.

use std::time::Duration;

use common::control::{FromWorker, ProcessEnd, ToWorker};
use common::job::Job;
use common::journal;

use super::tests::{Story, WORLD, options};
use super::{Command, Event, Options};

fn asked(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Tell { message: ToWorker::Save { .. }, .. })).count()
}

fn recorded(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Record { event: journal::Event::SaveRequested, .. })).count()
}

fn training() -> Story {
    let mut story = Story::with(Options { job: Job::Train, ..options() });
    for rank in 0..WORLD {
        story.guard_joins(rank);
        story.join(story.hello(rank));
    }
    story
}

fn committed(step: u64, seconds: f64) -> FromWorker {
    FromWorker::CheckpointCommitted { step, seconds }
}

#[test]
fn workers_that_come_later_are_told_until_it_is_there() {
    let mut story = training();
    story.wait(5);
    let commands = story.feed(Event::Save("orchestrator checkpoint"));
    assert_eq!((asked(&commands), recorded(&commands)), (WORLD, 1));
    // One that was under way does not count.
    story.wait(10);
    story.say(0, committed(1, 11.0));
    story.guard_says(1, FromWorker::Ended { end: ProcessEnd::Signal(9), out_of_memory: false });
    for rank in [0, 2] {
        story.guard_says(rank, FromWorker::Ended { end: ProcessEnd::Signal(9), out_of_memory: false });
    }
    assert_eq!(story.supervisor.generation(), 2);
    let told: usize = (0..WORLD).map(|rank| asked(&story.join(story.hello(rank)))).sum();
    assert_eq!(told, WORLD);
    story.wait(2);
    story.say(0, committed(2, 1.0));
    assert!(!story.supervisor.wish.is_owed());
}

#[test]
fn a_second_wish_is_for_a_second_checkpoint_and_a_signal_to_all_is_one_wish() {
    let mut story = training();
    story.feed(Event::Save("SIGUSR2"));
    story.wait(5);
    assert_eq!(asked(&story.feed(Event::Save("SIGUSR2"))), WORLD);
    story.wait(1);
    story.say(0, committed(1, 5.9));
    assert!(story.supervisor.wish.is_owed(), "begun before the second one asked");
    story.say(0, committed(2, 0.5));
    assert!(!story.supervisor.wish.is_owed());

    let signals = |story: &mut Story| {
        (0..WORLD).map(|rank| recorded(&story.guard_says(rank, FromWorker::Signalled { signal: "SIGUSR2".into() }))).sum::<usize>()
    };
    assert_eq!(signals(&mut story), 1);
    story.say(0, committed(3, 0.0));
    assert_eq!(signals(&mut story), 0, "the last of them come late");
    story.wait(Duration::from_secs(6).as_secs());
    assert_eq!(signals(&mut story), 1);
}

#[test]
fn only_training_saves() {
    let mut story = Story::with(Options { job: Job::Encode, ..options() });
    assert_eq!(story.feed(Event::Save("SIGUSR2")), []);
}

#[test]
fn a_checkpoint_that_was_not_saved_is_told_once_and_forgotten_with_the_next() {
    let mut story = training();
    let failed = |cause: &str| FromWorker::CheckpointFailed { step: 8, cause: cause.into() };
    story.say(1, failed("no space is left"));
    story.say(0, failed("writer 1 of this checkpoint has failed: no space is left"));
    let told = story.events().iter().filter(|event| **event == journal::Event::CheckpointFailed { step: 8 }).count();
    assert_eq!((told, story.supervisor.failed_saves()), (1, 1));
    assert!(story.supervisor.unsaved().is_some_and(|unsaved| unsaved.cause.contains("writer 1")), "who waited for all knows most");
    story.say(0, committed(9, 0.5));
    assert_eq!((story.supervisor.unsaved(), story.supervisor.failed_saves()), (None, 1));
}
