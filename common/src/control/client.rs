//! The worker's side: a handle that never blocks the training thread, and the thread behind it.
//!
//! That thread sends what is queued, a heartbeat each second, and listens. [`ToWorker::Stop`] sets a flag that the job reads at its
//! next step boundary. [`ToWorker::Kill`], and a coordinator that vanishes, call the kill switch given at [`connect`], which is
//! expected to end the process: a worker nobody watches must not go on holding its device.
//!
//! [`connect`]: ControlClient::connect

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::address::Address;
use super::error::ControlError;
use super::frames::{FrameReceiver, FrameSender, Side, handshake};
use super::messages::{FromWorker, Hello, ToWorker};
use super::outbox::Outbox;
use crate::run_dir::RunDir;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time to connect, and time the coordinator has for its handshake and then for its welcome.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Time for the last message to be read by the coordinator.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// A worker's connection to the coordinator. All methods may be called from any thread.
#[derive(Debug)]
pub struct ControlClient {
    outbox: Arc<Outbox>,
    stop: Arc<AtomicBool>,
    generation: u64,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl ControlClient {
    /// Connects to the coordinator of the job folder `job_dir`, says `hello` and waits for the welcome.
    ///
    /// `kill_switch` is called at most once, on the control thread, with the reason why this worker has to end at once.
    ///
    /// # Errors
    /// No coordinator there, a wrong key, or a coordinator that refuses this worker.
    pub fn connect(
        job_dir: &RunDir,
        hello: Hello,
        kill_switch: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self, ControlError> {
        let address = Address::read(&job_dir.coordinator())?;
        let peer = format!("coordinator at {}", address.address);
        let io = |source| ControlError::Connection { peer: peer.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (generation, session) = runtime.block_on(join(&address, &peer, hello))?;

        let (outbox, stop) = (Arc::new(Outbox::default()), Arc::new(AtomicBool::new(false)));
        let (alive, ended) = mpsc::channel();
        let shared = (outbox.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("control".into());
        let run = move || {
            let end = runtime.block_on(session.converse(&shared.0, &shared.1));
            drop(alive);
            if let Err(reason) = end {
                pull(kill_switch, reason);
            }
        };
        thread.spawn(run).map_err(io)?;
        Ok(Self { outbox, stop, generation, ended: Mutex::new(ended) })
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

    /// Set when the coordinator asks to save and end.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
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

/// Connects, authenticates, greets, and waits for the welcome.
async fn join(address: &Address, peer: &str, hello: Hello) -> Result<(u64, Session), ControlError> {
    let timed_out = |_| ControlError::TimedOut { peer: peer.into(), limit: CONNECT_LIMIT };
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(&address.address)).await.map_err(timed_out)?;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    let stream = stream.map_err(|source| ControlError::Connection { peer: peer.into(), source })?;
    let (receiver, sender) = handshake(stream.into_split(), &address.key, Side::Initiator, peer, CONNECT_LIMIT).await?;
    let mut session = Session { receiver, sender };
    session.sender.send(&FromWorker::Hello(hello)).await?;
    match timeout(CONNECT_LIMIT, session.receiver.receive()).await.map_err(timed_out)?? {
        Some(ToWorker::Welcome { generation }) => Ok((generation, session)),
        Some(ToWorker::Kill { reason } | ToWorker::Stop { reason }) => Err(ControlError::Refused { reason }),
        None => Err(ControlError::Closed { peer: peer.into(), when: "before its welcome" }),
    }
}

struct Session<R = tokio::net::tcp::OwnedReadHalf, W = tokio::net::tcp::OwnedWriteHalf> {
    receiver: FrameReceiver<R>,
    sender: FrameSender<W>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    /// Carries messages both ways until the outbox is closed and read, or this worker must end: then the error says why.
    async fn converse(self, outbox: &Outbox, stop: &AtomicBool) -> Result<(), String> {
        let Self { mut receiver, mut sender } = self;
        let lost = |cause: String| if outbox.is_closed() { Ok(()) } else { Err(format!("the coordinator is gone: {cause}")) };
        let read = async {
            loop {
                match receiver.receive().await {
                    Ok(Some(ToWorker::Welcome { .. })) => {}
                    Ok(Some(ToWorker::Stop { reason })) => {
                        tracing::info!(reason, "asked to stop");
                        stop.store(true, Ordering::Release);
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
                    _ = heartbeat.tick() => outbox.push_heartbeat(),
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
