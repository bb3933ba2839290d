//! Random stories, of which the numbered rules must hold.

use common::control::{FailureKind, FromWorker, ProcessEnd, ToWorker};
use proptest::prelude::*;
use serde_json::Value;

use super::tests::{RESTARTS, Story, WORLD, ended, ends, failed, options, pulse, three_hosts};
use super::{Command, Event, StopReason};

/// One thing that may happen in a random launch.
#[derive(Debug, Clone)]
enum Incident {
    Join(usize),
    GuardJoins(usize),
    Heartbeat(usize),
    Checkpoint(u64),
    Fail(usize, bool),
    Finish(usize),
    Leave(usize),
    /// The worker's process ends, and its guard says so.
    Die(usize, u8),
    /// Both processes of a rank are not heard any more.
    Vanish(usize, bool),
    HostAnswers(usize),
    LauncherEnds(u8),
    Stop(StopReason),
    Wait(u64),
}

fn incident() -> impl Strategy<Value = Incident> {
    let code = || prop_oneof![Just(0_u8), Just(1), Just(2), Just(137)];
    let reason = prop_oneof![Just(StopReason::Interrupt), Just(StopReason::Terminate), Just(StopReason::WallTime)];
    prop_oneof![
        8 => (0..WORLD).prop_map(Incident::Join),
        8 => (0..WORLD).prop_map(Incident::GuardJoins),
        4 => (0..WORLD).prop_map(Incident::Heartbeat),
        2 => (0_u64..50).prop_map(Incident::Checkpoint),
        1 => (0..WORLD, prop::bool::weighted(0.2)).prop_map(|(rank, bad)| Incident::Fail(rank, bad)),
        2 => (0..WORLD).prop_map(Incident::Finish),
        2 => (0..WORLD).prop_map(Incident::Leave),
        3 => (0..WORLD, code()).prop_map(|(rank, code)| Incident::Die(rank, code)),
        1 => (0..WORLD, any::<bool>()).prop_map(|(rank, unreachable)| Incident::Vanish(rank, unreachable)),
        1 => (0..WORLD).prop_map(Incident::HostAnswers),
        2 => code().prop_map(Incident::LauncherEnds),
        1 => reason.prop_map(Incident::Stop),
        3 => (0_u64..100).prop_map(Incident::Wait),
    ]
}

/// A random launch and what the outside world knows of it.
struct World {
    story: Story,
    /// Whether each worker of the current generation exists.
    alive: Vec<bool>,
    /// Whether each rank's guard has joined and can be heard.
    guarded: Vec<bool>,
    /// Whether each rank's worker and guard can be heard no more.
    vanished: Vec<bool>,
    /// Ranks whose guard was told to kill.
    doomed: Vec<usize>,
    seen: usize,
    checkpoints: Vec<u64>,
}

impl World {
    fn new(hosts: bool) -> Self {
        let options = if hosts { three_hosts() } else { options() };
        let story = Story::with(super::Options { max_restarts: RESTARTS, ..options });
        let mut this = Self {
            story,
            alive: Vec::new(),
            guarded: Vec::new(),
            vanished: Vec::new(),
            doomed: Vec::new(),
            seen: 0,
            checkpoints: vec![0],
        };
        this.begin_generation();
        this
    }

    fn begin_generation(&mut self) {
        let world = self.story.supervisor.world();
        (self.alive, self.guarded, self.vanished) = (vec![true; world], vec![false; world], vec![false; world]);
        self.doomed.clear();
    }

    fn happen(&mut self, incident: Incident) -> Result<(), TestCaseError> {
        let heard = |this: &Self, rank: usize| rank < this.alive.len() && !this.vanished[rank];
        match incident {
            Incident::Join(rank) if heard(self, rank) => drop(self.story.join(self.story.hello(rank))),
            Incident::GuardJoins(rank) if heard(self, rank) && !self.guarded[rank] => {
                self.guarded[rank] = true;
                self.story.guard_joins(rank);
            }
            Incident::Heartbeat(rank) if heard(self, rank) => drop(self.story.say(rank, pulse(1))),
            Incident::Checkpoint(step) => {
                self.checkpoints.push(step);
                self.story.say(0, FromWorker::CheckpointCommitted { step, seconds: 1.0 });
            }
            Incident::Fail(rank, bad) => {
                let kind = if bad { FailureKind::BadInput } else { FailureKind::Fault };
                self.story.say(rank, failed(kind, "x"));
            }
            Incident::Finish(rank) => drop(self.story.say(rank, FromWorker::Finished { summary: Value::Null, stopped: false })),
            Incident::Leave(rank) => drop(self.story.leave(rank)),
            Incident::Die(rank, code) if heard(self, rank) && self.guarded[rank] && self.alive[rank] => {
                self.alive[rank] = false;
                self.story.guard_says(rank, ended(ProcessEnd::Code(code.into())));
            }
            Incident::Vanish(rank, unreachable) if heard(self, rank) => {
                self.vanished[rank] = true;
                self.story.vanish(rank, unreachable);
            }
            Incident::HostAnswers(rank) => {
                let host = ["a", "b", "c"][rank].to_owned();
                self.story.feed(Event::HostAnswers { host });
            }
            // A launcher that is gone has lost the processes that no guard looks after.
            Incident::LauncherEnds(code) => {
                let guarded = &self.guarded;
                self.alive.iter_mut().zip(guarded).for_each(|(alive, guarded)| *alive &= *guarded);
                self.story.launcher_ends(ProcessEnd::Code(code.into()));
            }
            Incident::Stop(reason) => drop(self.story.feed(Event::Stop(reason))),
            Incident::Wait(seconds) => {
                // Guards obey at once.
                for rank in std::mem::take(&mut self.doomed) {
                    self.happen(Incident::Die(rank, 137))?;
                }
                self.story.wait(seconds);
            }
            _ => {}
        }
        self.check()
    }

    /// The rules, for all commands since the last check.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let commands = self.story.commands.clone();
        let seen = std::mem::replace(&mut self.seen, commands.len());
        for (place, command) in commands.iter().enumerate().skip(seen.max(1)) {
            let over = commands[..place].iter().any(|earlier| matches!(earlier, Command::Finish(_)));
            prop_assert!(!over, "SV-6: {command:?} after the end");
            match command {
                Command::Start { generation, .. } if *generation > 1 => {
                    for rank in 0..self.alive.len() {
                        prop_assert!(!self.alive[rank] || self.vanished[rank], "SV-1: rank {rank} is still there");
                    }
                    self.begin_generation();
                }
                Command::End { generation, .. } => prop_assert!(*generation <= self.story.supervisor.generation()),
                Command::Tell { connection, message: ToWorker::Kill { .. } } => {
                    let guard = |rank: &usize| self.guarded[*rank] && self.story.guard(*rank) == *connection;
                    self.doomed.extend((0..self.guarded.len()).find(guard));
                }
                _ => {}
            }
        }
        let generations = self.story.supervisor.generation();
        prop_assert!(self.story.failures().len() as u64 <= generations, "SV-2: more than one first failure");
        // Each record checkpoint frees at most RESTARTS more restarts, and one start with the hosts that are back.
        let mut records = self.checkpoints.clone();
        records.sort_unstable();
        records.dedup();
        prop_assert!(self.story.starts().len() <= 1 + (RESTARTS + 1) * (1 + records.len()), "SV-3: too many restarts");
        Ok(())
    }

    /// Time passes, and a launcher that is killed is gone.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let from = self.story.commands.len();
        self.happen(Incident::Wait(5))?;
        if ends(&self.story.commands[from..]).contains(&true) {
            self.happen(Incident::LauncherEnds(137))?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens in whatever order, the rules hold; and once nobody speaks any more and killed processes die, a launch that is
    /// asked to stop comes to its end.
    #[test]
    fn the_rules_hold_in_every_story(hosts: bool, incidents in prop::collection::vec(incident(), 0..60)) {
        let mut world = World::new(hosts);
        for incident in incidents {
            world.happen(incident)?;
        }
        world.happen(Incident::Stop(StopReason::Interrupt))?;
        for _ in 0..500 {
            if world.story.outcome().is_some() {
                break;
            }
            world.settle()?;
        }
        prop_assert!(world.story.outcome().is_some(), "SV-4, SV-5: it never ends, in {:?}", world.story.supervisor.state());
    }
}
