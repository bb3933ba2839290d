//! The rules of the supervisor, with a clock made of numbers: stories of single launches, and random ones of which the rules must hold.

use std::time::Duration;

use common::control::{Connection, Failure as WorkerFailure, FailureKind, FromWorker, Hello, ToWorker};
use common::job::Job;
use common::journal;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Command, Event, Options, Outcome, Patience, ProcessEnd, State, StopSignal, Supervisor, Time};

const WORLD: usize = 3;
const RESTARTS: usize = 2;

/// A launch under test. Worker `rank` of the current generation speaks through the connection `100 * generation + rank`.
struct Story {
    supervisor: Supervisor,
    now: Time,
    commands: Vec<Command>,
}

impl Story {
    fn new() -> Self {
        let options = Options {
            job: Job::Train,
            world: WORLD,
            max_restarts: RESTARTS,
            first_generation: 1,
            version: "1".into(),
            patience: Patience::default(),
        };
        let (supervisor, commands) = Supervisor::start(options, Time::ZERO);
        Self { supervisor, now: Time::ZERO, commands }
    }

    fn running() -> Self {
        let mut story = Self::new();
        story.all_join();
        assert_eq!(story.supervisor.state(), State::Running);
        story
    }

    /// Feeds an event, keeps what it led to, and returns it.
    fn feed(&mut self, event: Event) -> Vec<Command> {
        let commands = self.supervisor.handle(event, self.now);
        self.commands.extend(commands.clone());
        commands
    }

    fn wait(&mut self, seconds: u64) -> Vec<Command> {
        self.now += Duration::from_secs(seconds);
        self.feed(Event::Tick)
    }

    fn connection(&self, rank: usize) -> Connection {
        Connection(100 * self.supervisor.generation() + rank as u64)
    }

    fn hello(&self, rank: usize) -> Hello {
        let generation = self.supervisor.generation();
        let (host, device, version) = ("h".into(), "cpu".into(), "1".into());
        Hello { rank, world: WORLD, local_rank: rank, generation, host, pid: 1, device, version }
    }

    fn join(&mut self, hello: Hello) -> Vec<Command> {
        self.feed(Event::Joined { connection: self.connection(hello.rank), hello })
    }

    fn all_join(&mut self) {
        for rank in 0..WORLD {
            self.join(self.hello(rank));
        }
    }

    fn say(&mut self, rank: usize, message: FromWorker) -> Vec<Command> {
        self.feed(Event::Said { connection: self.connection(rank), message })
    }

    fn leave(&mut self, rank: usize) -> Vec<Command> {
        self.feed(Event::Left { connection: self.connection(rank), error: None })
    }

    fn launcher_ends(&mut self, end: ProcessEnd) -> Vec<Command> {
        self.feed(Event::ProcessEnded { generation: self.supervisor.generation(), rank: None, end, remaining: 0 })
    }

    fn finish_all(&mut self) {
        for rank in 0..WORLD {
            let summary = if rank == 0 { json!({"loss": 1}) } else { Value::Null };
            self.say(rank, FromWorker::Finished { summary });
            self.leave(rank);
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.commands.iter().find_map(|command| if let Command::Finish(outcome) = command { Some(outcome) } else { None })
    }

    fn starts(&self) -> Vec<u64> {
        let start = |command: &Command| if let Command::Start { generation } = command { Some(*generation) } else { None };
        self.commands.iter().filter_map(start).collect()
    }

    /// Rank and reason of every failure that was recorded.
    fn failures(&self) -> Vec<(Option<usize>, String)> {
        let failure = |command: &Command| match command {
            Command::Record { event: journal::Event::Failed { rank, .. }, reason, .. } => Some((*rank, reason.clone())),
            _ => None,
        };
        self.commands.iter().filter_map(failure).collect()
    }
}

fn failed(kind: FailureKind, cause: &str) -> FromWorker {
    FromWorker::Failed(WorkerFailure { kind, cause: cause.into(), step: 7 })
}

fn kills(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Tell { message: ToWorker::Kill { .. }, .. })).count()
}

fn ends(commands: &[Command]) -> Vec<bool> {
    let end = |command: &Command| if let Command::End { force, .. } = command { Some(*force) } else { None };
    commands.iter().filter_map(end).collect()
}

#[test]
fn a_launch_without_incidents() {
    let mut story = Story::running();
    story.say(0, FromWorker::CheckpointCommitted { step: 10 });
    story.finish_all();
    assert_eq!(story.outcome(), None, "processes are still there");
    story.launcher_ends(ProcessEnd::Code(0));
    assert_eq!(story.outcome(), Some(&Outcome::Done(json!({"loss": 1}))));
    assert_eq!(story.supervisor.state(), State::Finished);
    assert!(ends(&story.commands).is_empty());
}

#[test]
fn the_exit_status_does_not_undo_a_finished_job_and_a_lingering_process_is_ended() {
    let mut story = Story::running();
    story.finish_all();
    assert_eq!(ends(&story.wait(10)), [false]);
    assert_eq!(ends(&story.wait(9)), [] as [bool; 0]);
    assert_eq!(ends(&story.wait(1)), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert!(matches!(story.outcome(), Some(Outcome::Done(_))));
}

#[test]
fn the_first_failure_is_recorded_and_the_others_follow_from_it() {
    let mut story = Story::running();
    let commands = story.say(1, failed(FailureKind::Fault, "loss is not a number"));
    assert_eq!((kills(&commands), ends(&commands)), (WORLD, vec![false]));
    story.say(0, failed(FailureKind::Fault, "the collective was aborted"));
    story.leave(2);
    assert_eq!(story.starts(), [1], "SV-1: not before every process is gone");
    story.launcher_ends(ProcessEnd::Code(1));
    assert_eq!(story.starts(), [1, 2]);
    assert_eq!(story.failures(), [(Some(1), "loss is not a number".into())]);
    story.all_join();
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert!(matches!(story.outcome(), Some(Outcome::Done(_))));
}

#[test]
fn a_killed_rank_gets_its_signal_in_either_order_of_events() {
    let cause = (Some(2), "ended without finishing (exit code 137, as after signal 9 (SIGKILL))".to_owned());
    let mut story = Story::running();
    assert!(ends(&story.leave(2)).is_empty(), "the exit status may still come");
    story.leave(0);
    story.launcher_ends(ProcessEnd::Code(137));
    assert_eq!((story.failures(), story.starts()), (vec![cause.clone()], vec![1, 2]));

    let mut story = Story::running();
    story.launcher_ends(ProcessEnd::Code(137));
    assert_eq!(story.failures(), []);
    story.leave(2);
    assert_eq!((story.failures(), story.starts()), (vec![cause], vec![1, 2]));
}

#[test]
fn a_lost_connection_alone_is_a_failure_after_a_while() {
    let mut story = Story::running();
    story.leave(1);
    assert_eq!(story.wait(2), []);
    assert_eq!(ends(&story.wait(1)), [false]);
    assert_eq!(story.failures(), [(Some(1), "lost: its connection closed, with no exit status so far".into())]);
}

#[test]
fn workers_that_never_report_and_workers_that_fall_silent_are_found() {
    let mut story = Story::new();
    story.join(story.hello(1));
    story.wait(179);
    assert_eq!(story.failures().len(), 1, "rank 1 has been silent for too long meanwhile");

    let mut story = Story::new();
    for _ in 0..179 {
        story.wait(1);
        if story.now == Duration::from_secs(1) {
            story.join(story.hello(1));
        }
        story.say(1, FromWorker::Heartbeat { step: 0 });
    }
    assert_eq!(story.failures(), []);
    story.wait(1);
    assert_eq!(story.failures(), [(None, "no greeting from rank 0 and 2 within 180 s".into())]);

    let mut story = Story::running();
    story.now += Duration::from_secs(59);
    story.say(0, FromWorker::Heartbeat { step: 1 });
    story.say(2, FromWorker::Heartbeat { step: 1 });
    story.wait(1);
    assert_eq!(story.failures(), [(Some(1), "no sign of life for 60 s".into())]);
}

#[test]
fn workers_that_die_before_they_report_are_restarted_but_not_for_ever() {
    let mut story = Story::new();
    for _ in 0..=RESTARTS {
        story.launcher_ends(ProcessEnd::Code(1));
    }
    assert_eq!(story.starts(), [1, 2, 3]);
    assert_eq!(story.failures()[0], (None, "the workers ended before they reported (exit code 1)".into()));
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(3));
}

#[test]
fn bad_input_is_never_tried_again() {
    let mut story = Story::running();
    story.say(0, failed(FailureKind::BadInput, "shard 3 is damaged"));
    story.launcher_ends(ProcessEnd::Code(2));
    assert_eq!((story.outcome().map(Outcome::exit_code), story.starts()), (Some(2), vec![1]));

    let mut early = Story::new();
    early.launcher_ends(ProcessEnd::Code(2));
    assert_eq!(early.outcome().map(Outcome::exit_code), Some(2));
}

#[test]
fn a_new_checkpoint_makes_restarts_free_again_and_an_old_one_does_not() {
    let mut story = Story::new();
    for (attempt, step) in [10, 20, 20, 15].into_iter().enumerate() {
        assert_eq!(story.outcome(), None, "attempt {attempt}");
        story.all_join();
        if step > 0 {
            story.say(0, FromWorker::CheckpointCommitted { step });
        }
        story.leave(1);
        story.launcher_ends(ProcessEnd::Code(137));
    }
    // Step 20 set the count to 0 in generation 2; generations 3 and 4 were its two restarts.
    assert_eq!(story.starts(), [1, 2, 3, 4]);
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(3));
}

#[test]
fn workers_asked_to_stop_may_save_and_then_the_launch_ends() {
    let mut story = Story::running();
    let commands = story.feed(Event::Signal(StopSignal::Interrupt));
    let stops = commands.iter().filter(|command| matches!(command, Command::Tell { message: ToWorker::Stop { .. }, .. })).count();
    assert_eq!((stops, ends(&commands)), (WORLD, vec![]));
    assert_eq!(story.supervisor.state(), State::Stopping);
    story.wait(20);
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { signal: StopSignal::Interrupt, saved: true }));
}

#[test]
fn a_second_signal_or_the_end_of_the_grace_period_kills() {
    let mut story = Story::running();
    story.feed(Event::Signal(StopSignal::Interrupt));
    let commands = story.feed(Event::Signal(StopSignal::Interrupt));
    assert_eq!((kills(&commands), ends(&commands)), (WORLD, vec![false]));
    assert_eq!(ends(&story.feed(Event::Signal(StopSignal::Interrupt))), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { signal: StopSignal::Interrupt, saved: false }));

    let mut story = Story::new();
    story.feed(Event::Signal(StopSignal::Terminate));
    let late = story.join(story.hello(0));
    assert!(late.iter().any(|command| matches!(command, Command::Tell { message: ToWorker::Stop { .. }, .. })), "{late:?}");
    assert_eq!(ends(&story.wait(30)), [false]);
    assert_eq!(ends(&story.wait(10)), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(143));
}

#[test]
fn no_restart_follows_a_wish_to_stop() {
    let mut story = Story::running();
    story.feed(Event::Signal(StopSignal::Terminate));
    story.say(0, failed(FailureKind::Fault, "disk full"));
    story.launcher_ends(ProcessEnd::Code(1));
    assert_eq!((story.starts(), story.outcome().map(Outcome::exit_code)), (vec![1], Some(143)));
}

#[test]
fn workers_that_do_not_fit_are_refused() {
    let mut story = Story::new();
    let leftover = Hello { generation: 9, ..story.hello(0) };
    assert_eq!(kills(&story.join(leftover)), 1);
    assert_eq!(story.failures(), [], "a leftover of another generation harms nobody");

    for misfit in [
        Hello { world: 1, ..story.hello(0) },
        Hello { rank: WORLD, ..story.hello(0) },
        Hello { version: "2".into(), ..story.hello(0) },
    ] {
        let mut story = Story::new();
        story.join(misfit);
        story.launcher_ends(ProcessEnd::Signal(15));
        assert_eq!(story.outcome().map(Outcome::exit_code), Some(2));
    }
    story.join(story.hello(1));
    story.feed(Event::Joined { connection: Connection(7), hello: story.hello(1) });
    assert_eq!(story.failures().len(), 1, "the same rank twice");
}

#[test]
fn a_single_worker_s_own_process_tells_who_it_was() {
    let mut story = Story::running();
    let end = ProcessEnd::Signal(11);
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(2), end, remaining: 2 });
    assert_eq!(story.failures(), [(Some(2), "ended without finishing (killed by signal 11 (SIGSEGV))".into())]);
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(0), end, remaining: 1 });
    assert_eq!(story.starts(), [1]);
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(1), end, remaining: 0 });
    assert_eq!(story.starts(), [1, 2]);
}

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
            Incident::Heartbeat(rank) => drop(story.say(rank, FromWorker::Heartbeat { step: 1 })),
            Incident::Checkpoint(step) => {
                self.checkpoints.push(step);
                story.say(0, FromWorker::CheckpointCommitted { step });
            }
            Incident::Fail(rank, bad) => {
                let kind = if bad { FailureKind::BadInput } else { FailureKind::Fault };
                story.say(rank, failed(kind, "x"));
            }
            Incident::Finish(rank) => drop(story.say(rank, FromWorker::Finished { summary: Value::Null })),
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
