//! The worker's side: a handle that never blocks the training thread, and the thread behind it.
//!
//! That thread sends what is queued, a heartbeat each second, and listens. [`ToWorker::Stop`] and [`ToWorker::Save`] set flags that the
//! job reads at its next step boundary. [`ToWorker::Kill`], and a coordinator that vanishes, call the kill switch given at [`connect`], which is
//! expected to end the process: a worker nobody watches must not go on holding its device.
//!
//! [`connect`]: ControlClient::connect

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::activity::Activity;
use super::address::Address;
use super::error::ControlError;
use super::frames::{FrameReceiver, FrameSender, Side, handshake};
use super::messages::{FromWorker, Hello, ToWorker};
use super::outbox::Outbox;
use super::rendezvous::Rendezvous;
use super::transport::tune;
use crate::run_dir::RunDir;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time to connect, and time the coordinator has for its handshake and then for its welcome.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Time for the last message to be read by the coordinator.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// What the coordinator has asked for; the job looks at its step boundaries.
#[derive(Debug, Clone, Default)]
struct Wishes {
    stop: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

/// A worker's connection to the coordinator. All methods may be called from any thread.
#[derive(Debug)]
pub struct ControlClient {
    outbox: Arc<Outbox>,
    wishes: Wishes,
    rendezvous: Arc<Rendezvous>,
    generation: u64,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl ControlClient {
    /// Connects to the coordinator of the job folder `job_dir`, says `hello` and waits for the welcome.
    ///
    /// `activity` is what the heartbeats tell. `kill_switch` is called at most once, on the control thread, with the reason why this worker has to end at once.
    ///
    /// # Errors
    /// No coordinator there, a wrong key, or a coordinator that refuses this worker.
    pub fn connect(
        job_dir: &RunDir,
        hello: Hello,
        activity: Arc<Activity>,
        kill_switch: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self, ControlError> {
        let address = Address::read(&job_dir.coordinator())?;
        let io = |source| ControlError::Connection { peer: peer_name(&address), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (generation, line) = runtime.block_on(connect(&address, hello))?;

        let (outbox, wishes, rendezvous) = (Arc::<Outbox>::default(), Wishes::default(), Arc::<Rendezvous>::default());
        let (alive, ended) = mpsc::channel();
        let shared = (outbox.clone(), wishes.clone(), rendezvous.clone());
        let thread = std::thread::Builder::new().name("control".into());
        let run = move || {
            let end = runtime.block_on(line.converse(&shared.0, &shared.1, &shared.2, &activity));
            drop(alive);
            if let Err(reason) = end {
                pull(kill_switch, reason);
            }
        };
        thread.spawn(run).map_err(io)?;
        Ok(Self { outbox, wishes, rendezvous, generation, ended: Mutex::new(ended) })
    }

    /// The generation that the coordinator has welcomed this worker to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Queues a message and returns at once. A waiting [`FromWorker::Progress`] is replaced by a newer one.
    pub fn send(&self, message: FromWorker) {
        self.outbox.push(message);
    }

    /// From rank 0: all workers of this generation meet in NCCL at `id`, NCCL's unique id in hexadecimal.
    pub fn offer_rendezvous(&self, id: String) {
        self.send(FromWorker::Rendezvous { id });
    }

    /// The id at which all workers of this generation meet in NCCL, the same on every rank, also on the one that has offered it. Waits
    /// for it, `limit` at most; later calls give the same.
    ///
    /// # Errors
    /// Rank 0 has not offered one within the time. (If it fails, or the coordinator is gone, the kill switch ends this worker meanwhile.)
    pub fn rendezvous(&self, limit: Duration) -> Result<String, ControlError> {
        self.rendezvous.wait(limit).ok_or(ControlError::NoRendezvous { limit })
    }

    /// Set when the coordinator asks to save and end.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.wishes.stop.clone()
    }

    /// Set when the coordinator asks for a checkpoint. Whoever begins one lowers it.
    #[must_use]
    pub fn save_flag(&self) -> Arc<AtomicBool> {
        self.wishes.save.clone()
    }

    /// Sends the last message ([`FromWorker::Finished`] or [`FromWorker::Failed`]) and waits, some seconds at most, until the
    /// coordinator has read it. Every rank ends with this call: a connection that just breaks off counts as a lost worker.
    pub fn finish(&self, last: FromWorker) {
        self.outbox.push(last);
        self.outbox.close();
        // The control thread drops its end when the coordinator has closed the connection, which it does after the last message.
        if let Ok(ended) = self.ended.lock() {
            let _ = ended.recv_timeout(FINISH_LIMIT);
        }
    }
}

/// Calls the kill switch. One that panics, as printing does once standard error has no reader, must not leave the worker running.
fn pull(kill_switch: impl FnOnce(String), reason: String) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kill_switch(reason))).is_err() {
        std::process::abort();
    }
}

fn peer_name(address: &Address) -> String {
    format!("coordinator at {}", address.address)
}

/// Connects, authenticates, greets, and waits for the welcome: the generation that `hello`'s sender was welcomed to, and the line.
///
/// # Errors
/// No coordinator there, a wrong key, or a coordinator that refuses this peer.
pub async fn connect(address: &Address, hello: Hello) -> Result<(u64, Line), ControlError> {
    let peer = peer_name(address);
    let timed_out = |_| ControlError::TimedOut { peer: peer.clone(), limit: CONNECT_LIMIT };
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&address.address)).await.map_err(timed_out)?;
    let broken = |source| ControlError::Connection { peer: peer.clone(), source };
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)).map_err(broken)?;
    let (receiver, sender) = handshake(stream.into_split(), &address.key, Side::Initiator, &peer, CONNECT_LIMIT).await?;
    // Not before: when thousands of workers greet at once, the coordinator's system leaves the first bytes of some unanswered for a while.
    tune(receiver.reader().as_ref()).map_err(broken)?;
    let mut line = Line { receiver, sender };
    line.sender.send(&FromWorker::Hello(hello)).await?;
    match timeout(CONNECT_LIMIT, line.receiver.receive()).await.map_err(timed_out)?? {
        Some(ToWorker::Welcome { generation }) => Ok((generation, line)),
        Some(ToWorker::Kill { reason } | ToWorker::Stop { reason }) => Err(ControlError::Refused { reason }),
        Some(ToWorker::Stacks | ToWorker::Save { .. } | ToWorker::Rendezvous { .. }) | None => {
            Err(ControlError::Closed { peer, when: "before its welcome" })
        }
    }
}

/// An authenticated connection to the coordinator, for whoever has a runtime of its own.
#[derive(Debug)]
pub struct Line {
    receiver: FrameReceiver<tokio::net::tcp::OwnedReadHalf>,
    sender: FrameSender<tokio::net::tcp::OwnedWriteHalf>,
}

/// The sending half of a [`Line`].
#[derive(Debug)]
pub struct LineSender(FrameSender<tokio::net::tcp::OwnedWriteHalf>);

impl LineSender {
    /// Sends a message.
    ///
    /// # Errors
    /// A connection that is broken.
    pub async fn send(&mut self, message: &FromWorker) -> Result<(), ControlError> {
        self.0.send(message).await
    }

    /// Says that nothing more will be sent, and waits, some seconds at most, until the coordinator has closed its end, which shows by the
    /// end of `heard`.
    pub async fn finish(mut self, heard: &mut tokio::sync::mpsc::UnboundedReceiver<ToWorker>) {
        self.0.close().await;
        let _ = timeout(FINISH_LIMIT, async { while heard.recv().await.is_some() {} }).await;
    }
}

impl Line {
    /// Listens on a task of its own: the sending half, and what the coordinator says until the connection is over.
    #[must_use]
    pub fn listen(self) -> (LineSender, tokio::sync::mpsc::UnboundedReceiver<ToWorker>) {
        let (say, heard) = tokio::sync::mpsc::unbounded_channel();
        let mut receiver = self.receiver;
        tokio::spawn(async move {
            while let Ok(Some(message)) = receiver.receive().await {
                if say.send(message).is_err() {
                    break;
                }
            }
        });
        (LineSender(self.sender), heard)
    }

    /// Carries messages both ways until the outbox is closed and read, or this worker must end: then the error says why.
    async fn converse(self, outbox: &Outbox, wishes: &Wishes, rendezvous: &Rendezvous, activity: &Activity) -> Result<(), String> {
        let Self { mut receiver, mut sender } = self;
        let lost = |cause: String| if outbox.is_closed() { Ok(()) } else { Err(format!("the coordinator is gone: {cause}")) };
        let read = async {
            loop {
                match receiver.receive().await {
                    Ok(Some(ToWorker::Welcome { .. } | ToWorker::Stacks)) => {}
                    Ok(Some(ToWorker::Rendezvous { id })) => rendezvous.tell(id),
                    Ok(Some(ToWorker::Stop { reason })) => {
                        tracing::info!(reason, "asked to stop");
                        wishes.stop.store(true, Ordering::Release);
                    }
                    Ok(Some(ToWorker::Save { reason })) => {
                        tracing::info!(reason, "asked for a checkpoint");
                        wishes.save.store(true, Ordering::Release);
                    }
                    Ok(Some(ToWorker::Kill { reason })) => return Err(format!("ended by the coordinator: {reason}")),
                    Ok(None) => return lost("it closed the connection".into()),
                    Err(error) => return lost(error.to_string()),
                }
            }
        };
        let write = async {
            let mut heartbeat = interval(HEARTBEAT);
            heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = outbox.changed() => {}
                    _ = heartbeat.tick() => outbox.push_heartbeat(activity.pulse()),
                }
                while let Some(message) = outbox.pop() {
                    if let Err(error) = sender.send(&message).await {
                        return lost(error.to_string());
                    }
                }
                if outbox.is_done() {
                    sender.close().await;
                    return Ok(());
                }
            }
        };
        tokio::try_join!(read, write).map(|_| ())
    }
}
