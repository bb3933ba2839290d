//! The rules of the supervisor, each in a story of one launch with a clock made of numbers. Random stories are in `properties`.

use std::time::Duration;

use common::control::{
    Connection, Failure as WorkerFailure, FailureKind, FromWorker, Hello, Phase, ProcessEnd, Pulse, Role, Spent, ToWorker,
};
use common::job::Job;
use common::journal;
use serde_json::{Value, json};

use super::{Command, Event, Options, Outcome, Patience, State, StopSignal, Supervisor, Time};

pub(super) const WORLD: usize = 3;
pub(super) const RESTARTS: usize = 2;

/// A launch under test. Worker `rank` of the current generation speaks through the connection `100 * generation + rank`.
pub(super) struct Story {
    pub(super) supervisor: Supervisor,
    now: Time,
    pub(super) commands: Vec<Command>,
}

impl Story {
    pub(super) fn new() -> Self {
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
    pub(super) fn feed(&mut self, event: Event) -> Vec<Command> {
        let commands = self.supervisor.handle(event, self.now);
        self.commands.extend(commands.clone());
        commands
    }

    pub(super) fn wait(&mut self, seconds: u64) -> Vec<Command> {
        self.now += Duration::from_secs(seconds);
        self.feed(Event::Tick)
    }

    fn connection(&self, rank: usize) -> Connection {
        Connection(100 * self.supervisor.generation() + rank as u64)
    }

    pub(super) fn hello(&self, rank: usize) -> Hello {
        let generation = self.supervisor.generation();
        let (host, device, version) = ("h".into(), "cpu".into(), "1".into());
        Hello { role: Role::Worker, rank, world: WORLD, local_rank: rank, generation, host, pid: 1, device, version }
    }

    pub(super) fn join(&mut self, hello: Hello) -> Vec<Command> {
        self.feed(Event::Joined { connection: self.connection(hello.rank), hello })
    }

    fn all_join(&mut self) {
        for rank in 0..WORLD {
            self.join(self.hello(rank));
        }
    }

    pub(super) fn say(&mut self, rank: usize, message: FromWorker) -> Vec<Command> {
        self.feed(Event::Said { connection: self.connection(rank), message })
    }

    pub(super) fn leave(&mut self, rank: usize) -> Vec<Command> {
        self.feed(Event::Left { connection: self.connection(rank), error: None })
    }

    pub(super) fn launcher_ends(&mut self, end: ProcessEnd) -> Vec<Command> {
        self.feed(Event::ProcessEnded { generation: self.supervisor.generation(), rank: None, end, remaining: 0 })
    }

    fn finish_all(&mut self) {
        for rank in 0..WORLD {
            let summary = if rank == 0 { json!({"loss": 1}) } else { Value::Null };
            self.say(rank, FromWorker::Finished { summary, stopped: false });
            self.leave(rank);
        }
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.commands.iter().find_map(|command| if let Command::Finish(outcome) = command { Some(outcome) } else { None })
    }

    pub(super) fn starts(&self) -> Vec<u64> {
        let start = |command: &Command| if let Command::Start { generation } = command { Some(*generation) } else { None };
        self.commands.iter().filter_map(start).collect()
    }

    /// Rank and reason of every failure that was recorded.
    pub(super) fn failures(&self) -> Vec<(Option<usize>, String)> {
        let failure = |command: &Command| match command {
            Command::Record { event: journal::Event::Failed { rank, .. }, reason, .. } => Some((*rank, reason.clone())),
            _ => None,
        };
        self.commands.iter().filter_map(failure).collect()
    }
}

pub(super) fn failed(kind: FailureKind, cause: &str) -> FromWorker {
    FromWorker::Failed(WorkerFailure { kind, cause: cause.into(), step: 7 })
}

/// A heartbeat of a worker that computes.
pub(super) fn pulse(step: u64) -> FromWorker {
    FromWorker::Heartbeat(Pulse { step, phase: Phase::Compute, phase_seconds: 0.1, spent: Spent::default() })
}

fn kills(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Tell { message: ToWorker::Kill { .. }, .. })).count()
}

pub(super) fn ends(commands: &[Command]) -> Vec<bool> {
    let end = |command: &Command| if let Command::End { force, .. } = command { Some(*force) } else { None };
    commands.iter().filter_map(end).collect()
}

#[test]
fn a_launch_without_incidents() {
    let mut story = Story::running();
    story.say(0, FromWorker::CheckpointCommitted { step: 10, seconds: 1.0 });
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
    assert_eq!((kills(&commands), ends(&commands)), (WORLD - 1, vec![false]), "the others, not the one that is ending");
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
        story.say(1, pulse(0));
    }
    assert_eq!(story.failures(), []);
    story.wait(1);
    assert_eq!(story.failures(), [(None, "no greeting from rank 0 and 2 within 180 s".into())]);

    let mut story = Story::running();
    story.now += Duration::from_secs(59);
    story.say(0, pulse(1));
    story.say(2, pulse(1));
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
            story.say(0, FromWorker::CheckpointCommitted { step, seconds: 1.0 });
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
