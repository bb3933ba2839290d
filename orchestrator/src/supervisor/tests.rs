//! The rules of the supervisor, each in a story of one launch with a clock made of numbers. Random stories are in `properties`.

use std::time::Duration;

use common::control::{
    Connection, Failure as WorkerFailure, FailureKind, FromWorker, Hello, Phase, ProcessEnd, Pulse, Role, Spent, ToWorker,
};
use common::job::Job;
use common::journal::{self, Revisions};
use serde_json::{Value, json};

use super::{Command, Event, Options, Outcome, Patience, State, StopReason, Supervisor, Time};

pub(super) const WORLD: usize = 3;
pub(super) const RESTARTS: usize = 2;

/// A launch under test. Worker `rank` of the current generation speaks through the connection `100 * generation + rank`.
pub(super) struct Story {
    pub(super) supervisor: Supervisor,
    pub(super) now: Time,
    pub(super) commands: Vec<Command>,
}

/// Three workers on this host.
pub(super) fn options() -> Options {
    Options {
        job: Job::Train,
        hosts: Vec::new(),
        nodes: 1,
        min_nodes: 1,
        workers_per_node: WORLD,
        max_restarts: RESTARTS,
        first_generation: 1,
        version: "1".into(),
        revisions: Revisions::default(),
        slurm_job: None,
        host: "login".into(),
        patience: Patience::default(),
    }
}

impl Story {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: Options) -> Self {
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
        let (generation, world) = (self.supervisor.generation(), self.supervisor.world());
        let host = self.placed().get(rank).cloned().unwrap_or_else(|| "h".into());
        let (device, version) = ("cpu".into(), "1".into());
        Hello { role: Role::Worker, rank, world, local_rank: rank, generation, host, pid: 1, device, version }
    }

    pub(super) fn join(&mut self, hello: Hello) -> Vec<Command> {
        self.feed(Event::Joined { connection: self.connection(hello.rank), hello })
    }

    /// All workers and their guards are there, and the first step is done.
    pub(super) fn guarded(options: Options) -> Self {
        let mut story = Self::with(options);
        story.all_join_with_guards();
        story.say(0, FromWorker::FirstStep { step: 1 });
        story
    }

    pub(super) fn all_join_with_guards(&mut self) {
        for rank in 0..self.supervisor.world() {
            self.guard_joins(rank);
            self.join(self.hello(rank));
        }
    }

    pub(super) fn guard_joins(&mut self, rank: usize) {
        let hello = Hello { role: Role::Guard, ..self.hello(rank) };
        self.feed(Event::Joined { connection: self.guard(rank), hello });
    }

    pub(super) fn guard(&self, rank: usize) -> Connection {
        Connection(self.connection(rank).0 + 50)
    }

    pub(super) fn guard_says(&mut self, rank: usize, message: FromWorker) -> Vec<Command> {
        self.feed(Event::Said { connection: self.guard(rank), message })
    }

    /// Both connections of a rank end.
    pub(super) fn vanish(&mut self, rank: usize, unreachable: bool) {
        for connection in [self.connection(rank), self.guard(rank)] {
            self.feed(Event::Left { connection, error: None, unreachable });
        }
    }

    /// Everything that was recorded.
    pub(super) fn events(&self) -> Vec<journal::Event> {
        let event = |command: &Command| if let Command::Record { event, .. } = command { Some(event.clone()) } else { None };
        self.commands.iter().filter_map(event).collect()
    }

    /// The hosts of the last start.
    fn placed(&self) -> Vec<String> {
        let hosts = |command: &Command| if let Command::Start { hosts, .. } = command { Some(hosts.clone()) } else { None };
        self.commands.iter().filter_map(hosts).next_back().unwrap_or_default()
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
        self.feed(Event::Left { connection: self.connection(rank), error: None, unreachable: false })
    }

    pub(super) fn launcher_ends(&mut self, end: ProcessEnd) -> Vec<Command> {
        self.feed(Event::ProcessEnded { generation: self.supervisor.generation(), rank: None, end, remaining: 0 })
    }

    fn finish_all(&mut self) {
        for rank in 0..WORLD {
            let summary = if rank == 0 { json!({"loss": 1}) } else { Value::Null };
            self.say(rank, FromWorker::Finished { summary, stopped: false });
            self.leave(rank);
            self.guard_says(rank, ended(ProcessEnd::Code(0)));
        }
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.commands.iter().find_map(|command| if let Command::Finish(outcome) = command { Some(outcome) } else { None })
    }

    pub(super) fn starts(&self) -> Vec<u64> {
        let start = |command: &Command| if let Command::Start { generation, .. } = command { Some(*generation) } else { None };
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
    FromWorker::Failed(WorkerFailure { kind, cause: cause.into(), step: 7, fits: None })
}

/// A heartbeat of a worker that computes.
pub(super) fn pulse(step: u64) -> FromWorker {
    FromWorker::Heartbeat(Pulse { step, phase: Phase::Compute, phase_seconds: 0.1, spent: Spent::default() })
}

/// What a guard says of its worker's end.
pub(super) fn ended(end: ProcessEnd) -> FromWorker {
    FromWorker::Ended { end, out_of_memory: false }
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
    assert_eq!(ends(&story.wait(5)), [false]);
    assert_eq!(ends(&story.wait(4)), [] as [bool; 0]);
    assert_eq!(ends(&story.wait(1)), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert!(matches!(story.outcome(), Some(Outcome::Done(_))));
}

#[test]
fn the_first_failure_is_recorded_and_the_others_follow_from_it() {
    let mut story = Story::running();
    assert!(story.say(1, failed(FailureKind::Fault, "disk full")).is_empty(), "a more telling one may follow");
    let commands = story.wait(1);
    assert_eq!((kills(&commands), ends(&commands)), (WORLD - 1, vec![false]), "the others, not the one that is ending");
    story.say(0, failed(FailureKind::Fault, "the collective was aborted"));
    story.leave(2);
    assert_eq!(story.starts(), [1], "SV-1: not before every process is gone");
    story.launcher_ends(ProcessEnd::Code(1));
    assert_eq!(story.starts(), [1, 2]);
    assert_eq!(story.failures(), [(Some(1), "disk full".into())]);
    story.all_join();
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert!(matches!(story.outcome(), Some(Outcome::Done(_))));
}

#[test]
fn a_killed_rank_is_named_with_its_signal_and_the_next_generation_starts_when_the_guards_say_so() {
    let mut story = Story::guarded(options());
    story.leave(2);
    story.say(0, failed(FailureKind::PeerLost, "connection reset by peer"));
    assert_eq!(story.failures(), [], "neither tells the cause");
    let commands = story.guard_says(2, ended(ProcessEnd::Signal(9)));
    assert_eq!(story.failures(), [(Some(2), "killed by signal 9 (SIGKILL)".into())]);
    // Rank 1's worker, and the guards of ranks 0 and 1, who are asked although rank 0 has said its last message.
    assert_eq!((kills(&commands), ends(&commands)), (3, vec![]), "the guards are enough: {commands:?}");
    story.guard_says(0, ended(ProcessEnd::Signal(9)));
    assert_eq!(story.starts(), [1]);
    let commands = story.guard_says(1, ended(ProcessEnd::Signal(9)));
    assert_eq!((story.starts(), ends(&commands)), (vec![1, 2], vec![true]), "nobody waits for the launcher");
    let followed = story.events().into_iter().filter(|event| matches!(event, journal::Event::Followed { rank: 0 })).count();
    assert_eq!(followed, 1);
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
    story.wait(3);
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

    let mut story = Story::guarded(options());
    story.now += Duration::from_secs(14);
    story.say(0, pulse(1));
    story.say(2, pulse(1));
    let asked = story.wait(1);
    assert!(asked.contains(&Command::Tell { connection: story.guard(1), message: ToWorker::Stacks }), "{asked:?}");
    story.guard_says(1, FromWorker::Stacks { text: "stopped".into() });
    assert_eq!(story.failures(), [(Some(1), "no sign of life for 15 s".into())]);
    assert!(story.commands.iter().any(|command| matches!(command, Command::Report { text, .. } if text.contains("stopped"))));
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
        story.all_join_with_guards();
        if step > 0 {
            story.say(0, FromWorker::CheckpointCommitted { step, seconds: 1.0 });
        }
        (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    }
    // Step 20 set the count to 0 in generation 2; generations 3 and 4 were its two restarts.
    assert_eq!(story.starts(), [1, 2, 3, 4]);
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(3));
}

#[test]
fn workers_asked_to_stop_may_save_and_then_the_launch_ends() {
    let mut story = Story::running();
    let commands = story.feed(Event::Stop(StopReason::Interrupt));
    let stops = commands.iter().filter(|command| matches!(command, Command::Tell { message: ToWorker::Stop { .. }, .. })).count();
    assert_eq!((stops, ends(&commands)), (WORLD, vec![]));
    assert_eq!(story.supervisor.state(), State::Stopping);
    story.wait(20);
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { reason: StopReason::Interrupt, saved: true }));
}

#[test]
fn a_second_signal_or_the_end_of_the_grace_period_kills() {
    let mut story = Story::running();
    story.feed(Event::Stop(StopReason::Interrupt));
    let commands = story.feed(Event::Stop(StopReason::Interrupt));
    assert_eq!((kills(&commands), ends(&commands)), (WORLD, vec![false]));
    assert_eq!(ends(&story.feed(Event::Stop(StopReason::Interrupt))), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { reason: StopReason::Interrupt, saved: false }));

    let mut story = Story::new();
    story.feed(Event::Stop(StopReason::Terminate));
    let late = story.join(story.hello(0));
    assert!(late.iter().any(|command| matches!(command, Command::Tell { message: ToWorker::Stop { .. }, .. })), "{late:?}");
    assert_eq!(ends(&story.wait(30)), [false]);
    assert_eq!(ends(&story.wait(10)), [true]);
    story.launcher_ends(ProcessEnd::Signal(9));
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(143));
}

/// Figures and pictures are made again from the start: nobody waits for a worker that paints.
#[test]
fn a_job_that_keeps_nothing_half_way_ends_as_soon_as_it_is_asked_to() {
    let mut story = Story::with(Options { job: Job::Compose, ..options() });
    (0..WORLD).for_each(|rank| drop(story.join(story.hello(rank))));
    let commands = story.feed(Event::Stop(StopReason::Request));
    assert_eq!((kills(&commands), ends(&commands)), (WORLD, vec![false]));
    assert_eq!(ends(&story.wait(10)), [true], "and is made to, if need be");
    story.launcher_ends(ProcessEnd::Signal(9));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { reason: StopReason::Request, saved: true }));

    let mut story = Story::with(Options { job: Job::Compose, ..options() });
    story.feed(Event::Stop(StopReason::Terminate));
    story.launcher_ends(ProcessEnd::Signal(15));
    assert_eq!((story.starts(), story.outcome().map(Outcome::exit_code)), (vec![1], Some(143)), "also before they have met");
}

#[test]
fn no_restart_follows_a_wish_to_stop() {
    let mut story = Story::running();
    story.feed(Event::Stop(StopReason::Terminate));
    story.say(0, failed(FailureKind::Fault, "disk full"));
    story.wait(1);
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
    assert_eq!(story.failures(), [(Some(2), "killed by signal 11 (SIGSEGV)".into())]);
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(0), end, remaining: 1 });
    assert_eq!(story.starts(), [1]);
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(1), end, remaining: 0 });
    assert_eq!(story.starts(), [1, 2]);
}

/// One worker on each of three hosts.
pub(super) fn three_hosts() -> Options {
    let hosts = ["a", "b", "c"].map(str::to_owned).into();
    Options { hosts, nodes: 3, workers_per_node: 1, max_restarts: 9, ..options() }
}

#[test]
fn a_host_that_is_cut_off_is_left_out_until_it_answers_and_taken_back_after_a_checkpoint() {
    let mut story = Story::guarded(three_hosts());
    story.vanish(1, true);
    assert_eq!(story.failures(), [(Some(1), "the host b is lost: it does not answer any more".into())]);
    assert!(story.commands.contains(&Command::Probe { hosts: vec!["b".into()] }));
    story.guard_says(0, ended(ProcessEnd::Signal(9)));
    story.guard_says(2, ended(ProcessEnd::Signal(9)));
    assert_eq!((story.starts(), story.supervisor.state()), (vec![1], State::Waiting), "it may be back in a moment");
    story.wait(2);
    assert_eq!((story.starts(), story.placed()), (vec![1, 2], vec!["a".into(), "c".into()]));
    assert_eq!(story.supervisor.world(), 2);

    story.all_join_with_guards();
    story.say(0, FromWorker::FirstStep { step: 1 });
    story.feed(Event::HostAnswers { host: "b".into() });
    assert_eq!(story.starts(), [1, 2], "no step is thrown away for it");
    story.say(0, FromWorker::CheckpointCommitted { step: 10, seconds: 1.0 });
    (0..2).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    assert_eq!((story.starts(), story.placed().len()), (vec![1, 2, 3], 3));
    assert_eq!(story.failures().len(), 1, "growing is no failure");
}

#[test]
fn a_host_whose_processes_all_died_is_used_again_at_once_if_it_answers() {
    let mut story = Story::guarded(three_hosts());
    story.vanish(2, false);
    assert_eq!(story.failures(), [(Some(2), "the host c is lost: all of its processes are gone".into())]);
    story.feed(Event::HostAnswers { host: "c".into() });
    story.guard_says(0, ended(ProcessEnd::Signal(9)));
    story.guard_says(1, ended(ProcessEnd::Signal(9)));
    assert_eq!((story.starts(), story.placed().len()), (vec![1, 2], 3));
}

#[test]
fn a_spare_host_takes_the_place_of_a_lost_one() {
    let mut story = Story::guarded(Options { nodes: 2, ..three_hosts() });
    assert_eq!((story.placed(), story.supervisor.world()), (vec!["a".to_owned(), "b".into()], 2));
    story.vanish(1, true);
    story.guard_says(0, ended(ProcessEnd::Signal(9)));
    story.wait(2);
    assert_eq!(story.placed(), ["a", "c"]);
    story.all_join_with_guards();
    story.feed(Event::HostAnswers { host: "b".into() });
    story.say(0, FromWorker::CheckpointCommitted { step: 10, seconds: 1.0 });
    assert_eq!(story.starts(), [1, 2], "it would have no more hosts than now");
}

#[test]
fn too_few_hosts_are_waited_for_and_given_up_in_the_end() {
    let few = Options { min_nodes: 3, ..three_hosts() };
    let mut story = Story::guarded(few);
    story.vanish(0, true);
    (1..3).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    story.wait(1000);
    assert_eq!((story.starts(), story.supervisor.state()), (vec![1], State::Waiting));
    story.feed(Event::HostAnswers { host: "a".into() });
    assert_eq!(story.starts(), [1, 2]);

    story.all_join_with_guards();
    story.vanish(0, true);
    (1..3).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Signal(9)))));
    story.wait(1801);
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(3));
}

#[test]
fn the_rank_that_did_not_enter_the_collective_is_named() {
    let doing = |phase, step| FromWorker::Heartbeat(Pulse { step, phase, phase_seconds: 61.0, spent: Spent::default() });
    let mut story = Story::guarded(options());
    for second in 1..=79 {
        story.now += Duration::from_secs(1);
        let step = second.min(20);
        for rank in 0..WORLD {
            let phase = if rank == 1 && second > 20 { Phase::Data } else { Phase::Collective };
            story.say(rank, doing(phase, step));
        }
        assert_eq!(story.feed(Event::Tick), [], "second {second}");
    }
    story.now += Duration::from_secs(1);
    let asked = story.feed(Event::Tick);
    assert_eq!(asked, [Command::Tell { connection: story.guard(1), message: ToWorker::Stacks }]);
    story.guard_says(1, FromWorker::Stacks { text: "read() in nfs_wait".into() });
    let (rank, cause) = story.failures().remove(0);
    assert_eq!(rank, Some(1));
    assert!(cause.starts_with("did not enter the collective of step 21: waiting for data for 60 s (the limit is 60 s"), "{cause}");
}

#[test]
fn a_rank_that_stops_in_the_middle_of_the_collective_is_told_from_those_that_wait_for_it() {
    let patience = Patience { silence: Duration::from_secs(999), ..Patience::default() };
    let mut story = Story::guarded(Options { patience, ..options() });
    let doing = |step| FromWorker::Heartbeat(Pulse { step, phase: Phase::Collective, phase_seconds: 0.1, spent: Spent::default() });
    for second in 1..=70 {
        story.now += Duration::from_secs(1);
        let alive = (0..WORLD).filter(|rank| *rank != 2 || second <= 9);
        alive.for_each(|rank| drop(story.say(rank, doing(second.min(9)))));
        story.feed(Event::Tick);
    }
    story.guard_says(2, FromWorker::Stacks { text: "T (stopped)".into() });
    let (rank, cause) = story.failures().remove(0);
    assert_eq!(rank, Some(2));
    assert!(cause.starts_with("fell silent in step 10, 60 s ago"), "{cause}");
}

#[test]
fn the_last_save_is_timed_by_what_saves_have_cost() {
    let seconds = Duration::from_secs;
    let patience = Patience { hang: seconds(9999), ..Patience::default() };
    let mut story = Story::with(Options { slurm_job: Some("7".into()), patience, ..options() });
    story.all_join_with_guards();
    story.feed(Event::Deadline(seconds(1000)));
    story.say(0, FromWorker::CheckpointCommitted { step: 10, seconds: 30.0 });
    let alive = |story: &mut Story, now| {
        story.now = seconds(now);
        (0..WORLD).for_each(|rank| drop(story.say(rank, pulse(1))));
        story.feed(Event::Tick)
    };
    assert_eq!(alive(&mut story, 899), []);
    assert!(alive(&mut story, 900).iter().any(|command| matches!(command, Command::Tell { message: ToWorker::Stop { .. }, .. })));
    // Slurm's own signals come on top, and must not kill what is being saved.
    assert_eq!(story.feed(Event::Stop(StopReason::Terminate)), []);
    story.guard_says(1, FromWorker::Signalled { signal: "SIGTERM".into() });
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { reason: StopReason::WallTime, saved: true }));
    assert_eq!(story.outcome().map(Outcome::exit_code), Some(75));
}

#[test]
fn slurm_s_signal_is_looked_into_and_may_turn_out_to_be_a_preemption() {
    let mut story = Story::guarded(Options { slurm_job: Some("7".into()), ..options() });
    let commands = story.guard_says(2, FromWorker::Signalled { signal: "SIGTERM".into() });
    assert!(commands.contains(&Command::FindReason), "{commands:?}");
    story.feed(Event::StopIs(StopReason::Preemption));
    story.finish_all();
    story.launcher_ends(ProcessEnd::Code(0));
    assert_eq!(story.outcome(), Some(&Outcome::Stopped { reason: StopReason::Preemption, saved: true }));
}

#[test]
fn the_exit_code_is_the_first_failure_s_own_unless_restarts_were_tried() {
    let once = |end, restarts| {
        let mut story = Story::guarded(Options { max_restarts: restarts, ..options() });
        story.guard_says(1, ended(end));
        story.wait(1);
        story.launcher_ends(ProcessEnd::Code(1));
        (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(end))));
        story.outcome().map(Outcome::exit_code)
    };
    assert_eq!(once(ProcessEnd::Signal(9), 0), Some(137));
    assert_eq!(once(ProcessEnd::Code(17), 0), Some(17));
    assert_eq!(once(ProcessEnd::Code(4), 5), Some(4), "not finite: no restart mends it");
    assert_eq!(once(ProcessEnd::Signal(9), 1), None);
}

#[test]
fn the_coordinator_s_own_sigterm_is_not_taken_for_somebody_s_wish_to_stop() {
    let mut story = Story::new();
    story.guard_joins(0);
    story.join(story.hello(0));
    // Rank 1 dies before its guard is there, so the launcher is asked to end; rank 0's guard is a child of it.
    story.feed(Event::ProcessEnded { generation: 1, rank: Some(1), end: ProcessEnd::Code(1), remaining: 2 });
    assert_eq!(ends(&story.wait(1)), [false]);
    story.guard_says(0, FromWorker::Signalled { signal: "SIGTERM".into() });
    story.guard_says(0, ended(ProcessEnd::Signal(9)));
    story.launcher_ends(ProcessEnd::Code(1));
    assert_eq!((story.starts(), story.outcome()), (vec![1, 2], None));
}

#[test]
fn the_launcher_s_sigterm_after_a_failure_is_not_taken_for_the_system_s() {
    let told = |first: &dyn Fn(&mut Story)| {
        let mut story = Story::guarded(Options { max_restarts: 0, ..options() });
        first(&mut story);
        // mpirun ends the others within milliseconds, before it is clear what has happened.
        (0..WORLD).for_each(|rank| drop(story.guard_says(rank, FromWorker::Signalled { signal: "SIGTERM".into() })));
        story.wait(1);
        (0..WORLD).for_each(|rank| drop(story.guard_says(rank, ended(ProcessEnd::Code(1)))));
        story.launcher_ends(ProcessEnd::Code(1));
        story.outcome().map(Outcome::exit_code)
    };
    let full = failed(FailureKind::Fault, "no space is left on the device");
    assert_eq!(told(&|story| drop(story.say(1, full.clone()))), Some(1));
    assert_eq!(told(&|story| drop(story.guard_says(1, ended(ProcessEnd::Code(1))))), Some(1));
    assert_eq!(told(&|_| ()), Some(143), "nobody has failed: the system has sent it");
}
