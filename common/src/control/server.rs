//! The coordinator's side: a listener whose authenticated peers become a stream of events.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::address::Key;
use super::error::ControlError;
use super::frames::{FrameReceiver, FrameSender, Side, handshake};
use super::messages::{FromWorker, Hello, ToWorker};
use super::transport::tune;

/// Time a peer has for its handshake and its [`Hello`].
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Peers that may be in their handshake at the same time; more wait in the listener's queue.
const HANDSHAKES: usize = 256;

/// Peers that may wait to be accepted: all workers of a large run greet at once. The system has a limit of its own and takes the lower one.
const QUEUE: u32 = 1 << 16;

/// Listens on a port of the system's choosing.
///
/// # Errors
/// When the address is not one of this host's.
pub async fn bind(ip: IpAddr) -> io::Result<TcpListener> {
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(ip, 0))?;
    socket.listen(QUEUE)
}

/// A number that no other connection of this listener had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// What happens on the control channel. Peers that fail to authenticate appear nowhere but in [`Rejected`](Self::Rejected).
#[derive(Debug)]
pub enum ServerEvent {
    /// A worker has authenticated and said who it is. Dropping `replies` closes the connection.
    Joined {
        /// Its connection.
        connection: Connection,
        /// Who it says it is.
        hello: Hello,
        /// What to tell it.
        replies: mpsc::UnboundedSender<ToWorker>,
    },
    /// A message of a worker that has joined; never [`FromWorker::Hello`] from a well-behaved one.
    Message {
        /// Its connection.
        connection: Connection,
        /// What it says.
        message: FromWorker,
    },
    /// The connection of a worker that had joined is over; nothing more will come from it.
    Left {
        /// Its connection.
        connection: Connection,
        /// The error that ended it; `None` when the worker closed it between two messages.
        error: Option<ControlError>,
    },
    /// A peer did not get as far as joining.
    Rejected(ControlError),
}

/// Accepts peers until `events` has no receiver any more. Each costs a task and, before it has authenticated, some hundred bytes.
pub async fn serve(listener: TcpListener, key: Key, events: mpsc::Sender<ServerEvent>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let numbers = Arc::new(AtomicU64::new(0));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (stream, peer) = tokio::select! {
            () = events.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    // Out of file descriptors, or a peer gone before it was accepted: neither is a reason to stop listening.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (key, events, numbers) = (key.clone(), events.clone(), numbers.clone());
        tokio::spawn(async move {
            let joined = tokio::time::timeout(HANDSHAKE_LIMIT, join(stream, &key, &peer.to_string())).await;
            drop(permit);
            let joined = joined.unwrap_or_else(|_| Err(ControlError::TimedOut { peer: peer.to_string(), limit: HANDSHAKE_LIMIT }));
            match joined {
                Ok(worker) => converse(worker, Connection(numbers.fetch_add(1, Ordering::Relaxed)), &events).await,
                Err(error) => {
                    // Without a receiver the listener is about to end anyway.
                    let _ = events.send(ServerEvent::Rejected(error)).await;
                }
            }
        });
    }
}

struct Worker {
    hello: Hello,
    receiver: FrameReceiver<tokio::net::tcp::OwnedReadHalf>,
    sender: FrameSender<tokio::net::tcp::OwnedWriteHalf>,
}

async fn join(stream: TcpStream, key: &Key, peer: &str) -> Result<Worker, ControlError> {
    tune(&stream).map_err(|source| ControlError::Connection { peer: peer.into(), source })?;
    let (mut receiver, sender) = handshake(stream.into_split(), key, Side::Responder, peer, HANDSHAKE_LIMIT).await?;
    match receiver.receive().await? {
        Some(FromWorker::Hello(hello)) => Ok(Worker { hello, receiver, sender }),
        Some(_) => Err(ControlError::Message { peer: peer.into(), problem: "the first message is not a greeting".into() }),
        None => Err(ControlError::Closed { peer: peer.into(), when: "before its greeting" }),
    }
}

/// Carries messages both ways until the worker leaves or the coordinator drops its end of `replies`.
async fn converse(worker: Worker, connection: Connection, events: &mpsc::Sender<ServerEvent>) {
    let Worker { hello, mut receiver, mut sender } = worker;
    let (replies, mut outbox) = mpsc::unbounded_channel();
    let write = async move {
        while let Some(reply) = outbox.recv().await {
            // A broken connection shows on the reading side, with its cause.
            if sender.send(&reply).await.is_err() {
                break;
            }
        }
        sender.close().await;
    };
    let read = async move {
        if events.send(ServerEvent::Joined { connection, hello, replies }).await.is_err() {
            return;
        }
        let error = loop {
            match receiver.receive().await {
                Ok(Some(message)) => {
                    if events.send(ServerEvent::Message { connection, message }).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        // Without a receiver nobody wants to know.
        let _ = events.send(ServerEvent::Left { connection, error }).await;
    };
    tokio::join!(read, write);
}
