//! Where events come from: sockets, processes, signals, a file by which somebody asks to stop, and time.

use std::path::PathBuf;
use std::time::Duration;

use common::control::ServerEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::supervisor::{Event, StopReason};

/// How often the supervisor is told that time has passed.
const TICK: Duration = Duration::from_millis(50);
/// How many ticks there are between two looks at the file that asks to stop.
const LOOK: u32 = 10;

/// All sources of events.
pub(super) struct Inputs {
    server: mpsc::Receiver<ServerEvent>,
    events: mpsc::UnboundedReceiver<Event>,
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
    tick: Interval,
    ticks: u32,
    stop_request: PathBuf,
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
        stop_request: PathBuf,
    ) -> std::io::Result<Self> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            server,
            events,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user: signal(SignalKind::user_defined1())?,
            tick,
            ticks: 0,
            stop_request,
        })
    }

    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            Some(event) = self.server.recv() => Input::Server(event),
            Some(event) = self.events.recv() => Input::Event(event),
            Some(()) = self.interrupt.recv() => Input::Event(Event::Stop(StopReason::Interrupt)),
            Some(()) = self.terminate.recv() => Input::Event(Event::Stop(StopReason::Terminate)),
            Some(()) = self.user.recv() => Input::Event(Event::Stop(StopReason::Terminate)),
            _ = self.tick.tick() => Input::Event(self.ticked()),
        }
    }

    /// Time has passed, and now and then somebody has asked to stop meanwhile.
    fn ticked(&mut self) -> Event {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(LOOK) && std::fs::remove_file(&self.stop_request).is_ok() {
            return Event::Stop(StopReason::Request);
        }
        Event::Tick
    }
}
