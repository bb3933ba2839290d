//! Random stories, of which the numbered rules must hold.

use common::control::{FailureKind, FromWorker, ProcessEnd};
use proptest::prelude::*;
use serde_json::Value;

use super::tests::{RESTARTS, Story, WORLD, ends, failed, pulse};
use super::{Command, Event, StopSignal};

/// One thing that may happen in a random launch.
#[derive(Debug, Clone)]
enum Incident {
    Join(usize),
    Heartbeat(usize),
    Checkpoint(u64),
    Fail(usize, bool),
    Finish(usize),
    Leave(usize),
    LauncherEnds(u8),
    Signal,
    Wait(u64),
}

fn incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        8 => (0..WORLD).prop_map(Incident::Join),
        4 => (0..WORLD).prop_map(Incident::Heartbeat),
        2 => (0_u64..50).prop_map(Incident::Checkpoint),
        1 => (0..WORLD, prop::bool::weighted(0.2)).prop_map(|(rank, bad)| Incident::Fail(rank, bad)),
        2 => (0..WORLD).prop_map(Incident::Finish),
        2 => (0..WORLD).prop_map(Incident::Leave),
        3 => prop_oneof![Just(0_u8), Just(1), Just(137)].prop_map(Incident::LauncherEnds),
        1 => Just(Incident::Signal),
        3 => (0_u64..100).prop_map(Incident::Wait),
    ]
}

/// A random launch and what the outside world knows of it.
struct World {
    story: Story,
    /// Whether the current generation's processes exist.
    alive: bool,
    seen: usize,
    checkpoints: Vec<u64>,
}

impl World {
    fn new() -> Self {
        Self { story: Story::new(), alive: true, seen: 0, checkpoints: vec![0] }
    }

    fn happen(&mut self, incident: Incident) -> Result<(), TestCaseError> {
        let story = &mut self.story;
        match incident {
            Incident::Join(rank) => drop(story.join(story.hello(rank))),
            Incident::Heartbeat(rank) => drop(story.say(rank, pulse(1))),
            Incident::Checkpoint(step) => {
                self.checkpoints.push(step);
                story.say(0, FromWorker::CheckpointCommitted { step, seconds: 1.0 });
            }
            Incident::Fail(rank, bad) => {
                let kind = if bad { FailureKind::BadInput } else { FailureKind::Fault };
                story.say(rank, failed(kind, "x"));
            }
            Incident::Finish(rank) => drop(story.say(rank, FromWorker::Finished { summary: Value::Null, stopped: false })),
            Incident::Leave(rank) => drop(story.leave(rank)),
            Incident::LauncherEnds(code) if self.alive => {
                self.alive = false;
                story.launcher_ends(ProcessEnd::Code(code.into()));
            }
            Incident::LauncherEnds(_) => {}
            Incident::Signal => drop(story.feed(Event::Signal(StopSignal::Interrupt))),
            Incident::Wait(seconds) => drop(story.wait(seconds)),
        }
        self.check()
    }

    /// The rules, for all commands since the last check.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let (seen, commands) = (self.seen, &self.story.commands);
        self.seen = commands.len();
        for (place, command) in commands.iter().enumerate().skip(seen.max(1)) {
            let over = commands[..place].iter().any(|earlier| matches!(earlier, Command::Finish(_)));
            prop_assert!(!over, "SV-6: {command:?} after the end");
            match command {
                Command::Start { generation } if *generation > 1 => {
                    prop_assert!(!self.alive, "SV-1: two generations at once");
                    self.alive = true;
                }
                Command::Finish(_) => prop_assert!(!self.alive, "the launch ended with processes left"),
                Command::End { generation, .. } => prop_assert_eq!(*generation, self.story.supervisor.generation()),
                _ => {}
            }
        }
        let generations = self.story.supervisor.generation();
        prop_assert!(self.story.failures().len() as u64 <= generations, "SV-2: more than one first failure");
        // Each record checkpoint frees at most RESTARTS more restarts.
        let mut records = self.checkpoints.clone();
        records.sort_unstable();
        records.dedup();
        prop_assert!(self.story.starts().len() <= 1 + RESTARTS * (1 + records.len()), "SV-3: too many restarts");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens in whatever order, the rules hold; and once nobody speaks any more and killed processes die, a launch that is
    /// asked to stop comes to its end.
    #[test]
    fn the_rules_hold_in_every_story(incidents in prop::collection::vec(incident(), 0..60)) {
        let mut world = World::new();
        for incident in incidents {
            world.happen(incident)?;
        }
        world.happen(Incident::Signal)?;
        for _ in 0..200 {
            if world.story.outcome().is_some() {
                break;
            }
            let from = world.story.commands.len();
            world.happen(Incident::Wait(5))?;
            if ends(&world.story.commands[from..]).contains(&true) {
                world.happen(Incident::LauncherEnds(137))?;
            }
        }
        prop_assert!(world.story.outcome().is_some(), "SV-4, SV-5: it never ends, in {:?}", world.story.supervisor.state());
    }
}
