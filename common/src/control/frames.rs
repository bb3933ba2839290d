//! Frames on a stream: `u32` length (little endian), then Noise messages; and the handshake that comes first.
//!
//! A frame carries one JSON message, cut into Noise messages of at most 65,535 bytes (the protocol's limit). Sending and receiving
//! have their own counters, so the two halves of a connection live in different tasks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use snow::{HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::address::Key;
use super::error::ControlError;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Longest JSON message.
pub(super) const MESSAGE_LIMIT: usize = 1 << 20;
/// Longest Noise message, and what of it is the authentication tag.
const NOISE_LIMIT: usize = 65_535;
const TAG: usize = 16;
const CHUNK: usize = NOISE_LIMIT - TAG;
const FRAME_LIMIT: usize = MESSAGE_LIMIT + MESSAGE_LIMIT.div_ceil(CHUNK) * TAG;
/// Both handshake messages are 48 bytes; a peer that announces more is cut off before anything is reserved for it.
const HANDSHAKE_LIMIT: usize = 96;

/// Which side of the handshake this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The worker.
    Initiator,
    /// The coordinator.
    Responder,
}

/// Proves to each other that both sides hold `key`, within `limit`, and returns the two halves of the connection.
///
/// The responder sends nothing before the initiator's proof was right. A recorded proof can be replayed, but whoever replays it
/// cannot read or write a single message after it: trust begins with the first message received.
pub(super) async fn handshake<R, W>(
    halves: (R, W),
    key: &Key,
    side: Side,
    peer: &str,
    limit: Duration,
) -> Result<(FrameReceiver<R>, FrameSender<W>), ControlError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = halves;
    let exchange = async {
        let mut noise = begin(key, side).map_err(|_| ControlError::Key { peer: peer.into() })?;
        while !noise.is_handshake_finished() {
            let mut message = [0; HANDSHAKE_LIMIT];
            if noise.is_my_turn() {
                let length = noise.write_message(&[], &mut message).map_err(|_| ControlError::Key { peer: peer.into() })?;
                write_frame(&mut writer, &message[..length]).await.map_err(|source| connection(peer, source))?;
            } else {
                let frame = read_frame(&mut reader, HANDSHAKE_LIMIT, peer).await?;
                let frame = frame.ok_or_else(|| ControlError::Closed { peer: peer.into(), when: "during the handshake" })?;
                noise.read_message(&frame, &mut message).map_err(|_| ControlError::Key { peer: peer.into() })?;
            }
        }
        noise.into_stateless_transport_mode().map_err(|_| ControlError::Key { peer: peer.into() })
    };
    let noise = timeout(limit, exchange).await.map_err(|_| ControlError::TimedOut { peer: peer.into(), limit })??;
    let noise = Arc::new(noise);
    Ok((
        FrameReceiver { reader, noise: noise.clone(), nonce: 0, peer: peer.into() },
        FrameSender { writer, noise, nonce: 0, peer: peer.into() },
    ))
}

fn begin(key: &Key, side: Side) -> Result<HandshakeState, snow::Error> {
    let builder = snow::Builder::new(PATTERN.parse()?).psk(0, &key.0)?;
    match side {
        Side::Initiator => builder.build_initiator(),
        Side::Responder => builder.build_responder(),
    }
}

/// The half of a connection that sends.
#[derive(Debug)]
pub(super) struct FrameSender<W> {
    writer: W,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    peer: String,
}

impl<W: AsyncWrite + Unpin> FrameSender<W> {
    /// Sends one message.
    pub(super) async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), ControlError> {
        let text = serde_json::to_vec(message)
            .map_err(|error| ControlError::Message { peer: self.peer.clone(), problem: error.to_string() })?;
        if text.len() > MESSAGE_LIMIT {
            return Err(ControlError::FrameTooLong { peer: self.peer.clone(), length: text.len(), limit: MESSAGE_LIMIT });
        }
        let mut frame = vec![0; text.len() + text.len().div_ceil(CHUNK) * TAG];
        for (plain, sealed) in text.chunks(CHUNK).zip(frame.chunks_mut(NOISE_LIMIT)) {
            let sealed = self.noise.write_message(self.nonce, plain, sealed);
            sealed.map_err(|_| ControlError::Key { peer: self.peer.clone() })?;
            self.nonce += 1;
        }
        write_frame(&mut self.writer, &frame).await.map_err(|source| connection(&self.peer, source))
    }

    /// Tells the other side that nothing more will come.
    pub(super) async fn close(&mut self) {
        // A connection that is already gone needs no closing.
        let _ = self.writer.shutdown().await;
    }
}

/// The half of a connection that receives.
#[derive(Debug)]
pub(super) struct FrameReceiver<R> {
    reader: R,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    peer: String,
}

impl<R> FrameReceiver<R> {
    /// The stream.
    pub(super) fn reader(&self) -> &R {
        &self.reader
    }
}

impl<R: AsyncRead + Unpin> FrameReceiver<R> {
    /// The next message; `None` when the other side closed the connection between two messages. Not cancel-safe.
    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ControlError> {
        let Some(frame) = read_frame(&mut self.reader, FRAME_LIMIT, &self.peer).await? else { return Ok(None) };
        let mut text = vec![0; frame.len()];
        let mut length = 0;
        for sealed in frame.chunks(NOISE_LIMIT) {
            let plain = self.noise.read_message(self.nonce, sealed, &mut text[length..]);
            length += plain.map_err(|_| ControlError::Key { peer: self.peer.clone() })?;
            self.nonce += 1;
        }
        serde_json::from_slice(&text[..length])
            .map(Some)
            .map_err(|error| ControlError::Message { peer: self.peer.clone(), problem: error.to_string() })
    }
}

fn connection(peer: &str, source: io::Error) -> ControlError {
    ControlError::Connection { peer: peer.into(), source }
}

async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, content: &[u8]) -> io::Result<()> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(4 + content.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    writer.write_all(&frame).await?;
    writer.flush().await
}

async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, limit: usize, peer: &str) -> Result<Option<Vec<u8>>, ControlError> {
    let mut length = [0; 4];
    let first = reader.read(&mut length).await.map_err(|source| connection(peer, source))?;
    if first == 0 {
        return Ok(None);
    }
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ControlError::Closed { peer: peer.into(), when: "in the middle of a frame" },
        _ => connection(peer, error),
    };
    reader.read_exact(&mut length[first..]).await.map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(ControlError::FrameTooLong { peer: peer.into(), length, limit });
    }
    let mut content = vec![0; length];
    reader.read_exact(&mut content).await.map_err(cut)?;
    Ok(Some(content))
}
