//! Where events come from: sockets, processes, signals, the files by which somebody asks to save or to stop, and time.

use std::time::Duration;

use common::control::ServerEvent;
use common::run_dir::RunDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::supervisor::{Event, StopReason};

/// How often the supervisor is told that time has passed.
const TICK: Duration = Duration::from_millis(50);
/// How many ticks there are between two looks at the files that ask for something.
const LOOK: u32 = 10;

/// All sources of events.
pub(super) struct Inputs {
    server: mpsc::Receiver<ServerEvent>,
    events: mpsc::UnboundedReceiver<Event>,
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
    save: Signal,
    tick: Interval,
    ticks: u32,
    folder: RunDir,
}

/// One thing that happened.
pub(super) enum Input {
    Server(ServerEvent),
    Event(Event),
}

impl Inputs {
    pub(super) fn new(
        server: mpsc::Receiver<ServerEvent>,
        events: mpsc::UnboundedReceiver<Event>,
        folder: RunDir,
    ) -> std::io::Result<Self> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            server,
            events,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user: signal(SignalKind::user_defined1())?,
            save: signal(SignalKind::user_defined2())?,
            tick,
            ticks: 0,
            folder,
        })
    }

    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            Some(event) = self.server.recv() => Input::Server(event),
            Some(event) = self.events.recv() => Input::Event(event),
            Some(()) = self.interrupt.recv() => Input::Event(Event::Stop(StopReason::Interrupt)),
            Some(()) = self.terminate.recv() => Input::Event(Event::Stop(StopReason::Terminate)),
            Some(()) = self.user.recv() => Input::Event(Event::Stop(StopReason::Terminate)),
            Some(()) = self.save.recv() => Input::Event(Event::Save("SIGUSR2")),
            _ = self.tick.tick() => Input::Event(self.ticked()),
        }
    }

    /// Time has passed, and now and then somebody has asked for something meanwhile.
    fn ticked(&mut self) -> Event {
        self.ticks = self.ticks.wrapping_add(1);
        if !self.ticks.is_multiple_of(LOOK) {
            return Event::Tick;
        }
        // Whoever wants both gets both: the other file is still there at the next look.
        if std::fs::remove_file(self.folder.save_request()).is_ok() {
            Event::Save("orchestrator checkpoint")
        } else if std::fs::remove_file(self.folder.stop_request()).is_ok() {
            Event::Stop(StopReason::Request)
        } else {
            Event::Tick
        }
    }
}
