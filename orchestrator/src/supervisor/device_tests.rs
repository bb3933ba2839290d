//! Stories of workers with devices: where they meet, how their devices do, and steps whose gradients are no numbers.

use std::time::Duration;

use common::control::{
    Checkup, Connection, Evaluation, FromWorker, Phase, ProcessEnd, Pulse, Setback, SetbackKind, Spent, ToWorker,
};
use common::journal;

use super::tests::{Story, WORLD, ended, options, pulse};
use super::{Command, Event, Outcome};

/// The ids that workers were told, with the connections that they went to.
fn rendezvous(commands: &[Command]) -> Vec<(u64, &str)> {
    let told = |command| match command {
        &Command::Tell { connection, message: ToWorker::Rendezvous { ref id } } => Some((connection.0, id.as_str())),
        _ => None,
    };
    commands.iter().filter_map(told).collect()
}

#[test]
fn where_rank_0_wants_to_meet_reaches_every_worker_of_its_generation_and_no_other() {
    let at = |id: &str| FromWorker::Rendezvous { id: id.into() };
    let mut story = Story::new();
    story.guard_joins(0);
    story.join(story.hello(0));
    story.join(story.hello(1));
    assert_eq!(rendezvous(&story.say(1, at("elsewhere"))), [], "SV-8: only rank 0's word counts");
    assert_eq!(rendezvous(&story.say(0, at("here"))), [(100, "here"), (101, "here")]);
    assert_eq!(rendezvous(&story.say(0, at("there"))), [], "those who are on their way are not called back");
    assert_eq!(rendezvous(&story.join(story.hello(2))), [(102, "here")]);
    story.guard_joins(1);
    assert_eq!(rendezvous(&story.commands).len(), 3, "guards do not meet");

    story.launcher_ends(ProcessEnd::Code(1));
    story.wait(5);
    (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Code(1)))));
    assert_eq!(story.starts(), [1, 2]);
    let late = Event::Said { connection: Connection(100), message: at("late") };
    assert_eq!(rendezvous(&story.feed(late)), [], "the last generation's rank 0");
    assert_eq!(rendezvous(&story.join(story.hello(1))), [], "generation 2 has not been told yet");
    story.join(story.hello(0));
    assert_eq!(rendezvous(&story.say(0, at("anew"))), [(200, "anew"), (201, "anew")]);
}

#[test]
fn a_worker_that_came_early_is_not_blamed_for_those_that_came_late() {
    let connecting = |seconds| {
        FromWorker::Heartbeat(Pulse { step: 0, phase: Phase::Connecting, phase_seconds: seconds, spent: Spent::default() })
    };
    let mut story = Story::new();
    let early = story.hello(1);
    story.join(early);
    for second in 0..100 {
        story.say(1, connecting(f64::from(second)));
        assert_eq!(story.wait(1), []);
    }
    story.guard_joins(1);
    story.join(story.hello(0));
    story.join(story.hello(2));
    for second in 0..59 {
        story.say(1, connecting(f64::from(100 + second)));
        story.say(0, pulse(0));
        story.say(2, pulse(0));
        assert_eq!(story.wait(1), [], "{second} s after the last one came");
    }
    assert!(story.wait(1).iter().any(|command| matches!(command, Command::Tell { message: ToWorker::Stacks, .. })));
}

/// A checkup of a device that does so many TFLOP/s.
fn checkup(device: &str, tflops: f64) -> FromWorker {
    let (memory_total, memory_free) = (141 << 30, 140 << 30);
    let (device, driver, all_reduce_gbps) = (device.into(), None, None);
    FromWorker::Checkup(Checkup { device, driver, memory_total, memory_free, matmul_tflops: tflops, all_reduce_gbps })
}

#[test]
fn devices_are_judged_once_all_have_been_tried_and_again_in_the_next_generation() {
    let mut story = Story::guarded(options());
    story.say(0, checkup("H200", 700.0));
    story.say(2, checkup("H200", 200.0));
    let judged = |story: &Story| {
        let events = story.events().into_iter();
        events
            .filter(|event| matches!(event, journal::Event::CheckedUp { .. } | journal::Event::Outlier { .. }))
            .collect::<Vec<_>>()
    };
    assert_eq!((judged(&story), story.supervisor.findings()), (vec![], None));
    story.say(1, checkup("H200", 700.0));
    let expected = [
        journal::Event::CheckedUp { device: "H200".into(), total_tflops: 1600.0 },
        journal::Event::Outlier { rank: 2, host: "h".into() },
    ];
    assert_eq!(judged(&story), expected);
    story.say(1, checkup("H200", 1.0));
    assert_eq!(judged(&story), expected, "a second one changes nothing");

    story.guard_says(1, ended(ProcessEnd::Signal(9)));
    (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    assert_eq!((story.starts(), story.supervisor.findings()), (vec![1, 2], None));
    story.all_join_with_guards();
    (0..WORLD).for_each(|rank| drop(story.say(rank, checkup(["H200", "H200", "A100"][rank], 700.0))));
    (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(2), "no restart makes one kind of them");
    assert!(story.failures()[1].1.starts_with("mixed devices: A100 is on rank 2 (h), H200 is on ranks 0-1 (h)"));
}

#[test]
fn training_that_goes_back_is_neither_a_failure_nor_a_hang() {
    let mut story = Story::guarded(options());
    let say_all = |story: &mut Story, step| (0..WORLD).for_each(|rank| drop(story.say(rank, pulse(step))));
    for step in 2..=100 {
        story.now += Duration::from_secs(1);
        say_all(&mut story, step);
        story.feed(Event::Tick);
    }
    for rank in 0..WORLD {
        story.say(rank, FromWorker::Setback(Setback { step: 101, kind: SetbackKind::BackTo(1) }));
    }
    story.say(0, FromWorker::Setback(Setback { step: 5, kind: SetbackKind::Skipped }));
    // What was on its way, and then 99 seconds until a new step: longer than any step may take.
    say_all(&mut story, 100);
    for step in 2..=100 {
        story.now += Duration::from_secs(1);
        say_all(&mut story, step);
        assert_eq!(story.feed(Event::Tick), [], "step {step} is done again");
    }
    let told = story.events().into_iter().filter(|event| matches!(event, journal::Event::Setback(_))).count();
    assert_eq!((told, story.supervisor.setbacks().skipped, story.supervisor.setbacks().back), (2, 1, 1), "rank 0 speaks for all");
}

#[test]
fn an_evaluation_is_no_hang_and_collapsed_slots_are_told_once_until_they_are_not() {
    let mut story = Story::guarded(options());
    let looking = |step| FromWorker::Heartbeat(Pulse { step, phase: Phase::Evaluate, phase_seconds: 9.0, spent: Spent::default() });
    for step in 2..=100 {
        story.now += Duration::from_secs(1);
        (0..WORLD).for_each(|rank| drop(story.say(rank, pulse(step))));
        story.feed(Event::Tick);
    }
    for _ in 0..300 {
        story.now += Duration::from_secs(1);
        (0..WORLD).for_each(|rank| drop(story.say(rank, looking(100))));
        assert_eq!(story.feed(Event::Tick), []);
    }
    for (step, collapse) in [(10, None), (20, Some("one slot")), (30, Some("one slot")), (40, None), (50, Some("all alike"))] {
        let evaluation = Evaluation { step, figures: [].into(), collapse: collapse.map(str::to_owned) };
        (0..WORLD).for_each(|rank| drop(story.say(rank, FromWorker::Evaluated(evaluation.clone()))));
    }
    let told: Vec<u64> = story
        .events()
        .into_iter()
        .filter_map(|event| if let journal::Event::SlotsCollapsed { step } = event { Some(step) } else { None })
        .collect();
    let evaluated = story.events().into_iter().filter(|event| matches!(event, journal::Event::Evaluated(_))).count();
    assert_eq!((evaluated, told), (5, vec![20, 50]), "rank 0 speaks for all");
}
