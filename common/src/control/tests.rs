//! The channel over real sockets: a normal exchange, and peers that are hostile, broken or silent.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::address::{Address, Key};
use super::frames::{MESSAGE_LIMIT, Side, handshake};
use super::*;
use crate::run_dir::RunDir;

const LIMIT: Duration = Duration::from_secs(20);

/// A coordinator's listener with its address file, on a runtime of its own.
struct Server {
    folder: tempfile::TempDir,
    address: Address,
    activity: Arc<Activity>,
    events: mpsc::Receiver<ServerEvent>,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener: TcpListener = runtime.block_on(bind(Ipv4Addr::LOCALHOST.into())).unwrap();
        let address = Address {
            address: listener.local_addr().unwrap().to_string(),
            key: Key::generate().unwrap(),
            generation: 1,
            pid: std::process::id(),
        };
        let folder = tempfile::tempdir().unwrap();
        address.write(&RunDir::new(folder.path()).coordinator()).unwrap();
        let (sender, events) = mpsc::channel(64);
        runtime.spawn(serve(listener, address.key.clone(), sender));
        Self { folder, address, activity: Arc::default(), events, runtime }
    }

    fn next(&mut self) -> ServerEvent {
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.events.recv()).await.unwrap().unwrap() })
    }

    /// The next event that is not a heartbeat.
    fn next_word(&mut self) -> ServerEvent {
        loop {
            match self.next() {
                ServerEvent::Message { message: FromWorker::Heartbeat(_), .. } => {}
                event => return event,
            }
        }
    }

    fn rejection(&mut self) -> ControlError {
        match self.next() {
            ServerEvent::Rejected(error) => error,
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Starts a client, welcomes it, and returns it with the server's end and the kill switch's wire.
    fn client(&mut self) -> (ControlClient, mpsc::UnboundedSender<ToWorker>, blocking::Receiver<String>) {
        let (killed, kills) = blocking::channel();
        let folder = RunDir::new(self.folder.path());
        let activity = self.activity.clone();
        let client = std::thread::spawn(move || {
            ControlClient::connect(&folder, hello(), activity, move |reason| drop(killed.send(reason))).unwrap()
        });
        let (greeting, replies) = loop {
            if let ServerEvent::Joined { hello, replies, .. } = self.next() {
                break (hello, replies);
            }
        };
        assert_eq!(greeting, hello());
        replies.send(ToWorker::Welcome { generation: 7 }).unwrap();
        (client.join().unwrap(), replies, kills)
    }
}

fn hello() -> Hello {
    Hello {
        role: Role::Worker,
        rank: 1,
        world: 2,
        local_rank: 1,
        generation: 7,
        host: "here".into(),
        pid: 4711,
        device: "cpu".into(),
        version: "0.1.0".into(),
    }
}

fn finished(summary: Value) -> FromWorker {
    FromWorker::Finished { summary, stopped: false }
}

#[test]
fn worker_and_coordinator_talk_and_part_in_order() {
    let mut server = Server::start();
    let (client, replies, kills) = server.client();
    assert_eq!(client.generation(), 7);
    let stop = client.stop_flag();
    replies.send(ToWorker::Stop { reason: "time is up".into() }).unwrap();
    client.send(FromWorker::CheckpointCommitted { step: 500, seconds: 0.5 });
    let ServerEvent::Message { message, .. } = server.next_word() else { panic!("no message") };
    assert_eq!(message, FromWorker::CheckpointCommitted { step: 500, seconds: 0.5 });
    // A summary that needs several Noise messages, and the end: the client returns as soon as the coordinator has let go.
    let summary = json!({ "text": "x".repeat(200_000) });
    let last = finished(summary.clone());
    let ending = std::thread::spawn(move || client.finish(last));
    let ServerEvent::Message { message, .. } = server.next_word() else { panic!("no summary") };
    assert_eq!(message, finished(summary));
    assert!(matches!(server.next_word(), ServerEvent::Left { error: None, .. }));
    drop(replies);
    ending.join().unwrap();
    assert!(stop.load(std::sync::atomic::Ordering::Acquire));
    assert!(kills.recv().is_err(), "the kill switch of a worker that ended in order must stay untouched");
}

#[test]
fn all_workers_meet_where_rank_0_says_and_none_waits_for_ever() {
    let mut server = Server::start();
    let (early, early_replies, _kills) = server.client();
    let (leader, leader_replies, _kills) = server.client();
    let limit = Duration::from_millis(20);
    let error = early.rendezvous(limit).unwrap_err();
    assert!(matches!(error, ControlError::NoRendezvous { .. }) && error.to_string().contains("rank 0"), "{error}");

    let id = "c0ffee".repeat(43);
    leader.offer_rendezvous(id.clone());
    let ServerEvent::Message { message: FromWorker::Rendezvous { id: offered }, .. } = server.next_word() else { panic!("no id") };
    let waiting = std::thread::spawn(move || (early.rendezvous(LIMIT).unwrap(), early));
    for replies in [&early_replies, &leader_replies] {
        replies.send(ToWorker::Rendezvous { id: offered.clone() }).unwrap();
    }
    let (found, early) = waiting.join().unwrap();
    let (late, late_replies, _kills) = server.client();
    late_replies.send(ToWorker::Rendezvous { id: offered }).unwrap();
    assert_eq!([found, leader.rendezvous(LIMIT).unwrap(), late.rendezvous(LIMIT).unwrap()], [(); 3].map(|()| id.clone()));
    assert_eq!(early.rendezvous(Duration::ZERO).unwrap(), id, "it does not change any more");
}

#[test]
fn a_silent_job_still_sends_heartbeats_that_tell_what_it_is_doing() {
    let mut server = Server::start();
    let activity = server.activity.clone();
    let (_client, _replies, _kills) = server.client();
    activity.step(3);
    activity.enter(Phase::Collective);
    loop {
        match server.next() {
            ServerEvent::Message { message: FromWorker::Heartbeat(pulse), .. } if pulse.step == 3 => {
                assert_eq!(pulse.phase, Phase::Collective);
                break;
            }
            ServerEvent::Message { message: FromWorker::Heartbeat(pulse), .. } => assert_eq!(pulse.phase, Phase::Starting),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn kill_and_a_vanished_coordinator_pull_the_kill_switch() {
    let mut server = Server::start();
    let (_client, replies, kills) = server.client();
    replies.send(ToWorker::Kill { reason: "rank 0 has failed".into() }).unwrap();
    assert_eq!(kills.recv_timeout(LIMIT).unwrap(), "ended by the coordinator: rank 0 has failed");

    let (_client, _replies, kills) = server.client();
    server.runtime.shutdown_background();
    assert!(kills.recv_timeout(LIMIT).unwrap().starts_with("the coordinator is gone"));
}

#[test]
fn a_peer_with_a_wrong_key_learns_nothing() {
    let mut server = Server::start();
    let wrong = Address { key: Key::generate().unwrap(), ..server.address.clone() };
    wrong.write(&RunDir::new(server.folder.path()).coordinator()).unwrap();
    let error = ControlClient::connect(&RunDir::new(server.folder.path()), hello(), Arc::default(), |_| {}).unwrap_err();
    assert!(matches!(error, ControlError::Closed { .. } | ControlError::Connection { .. }), "{error}");
    assert!(matches!(server.rejection(), ControlError::Key { .. }));

    // The same on the wire: a well-formed first message that proves nothing is answered with the end of the connection.
    let mut stream = server.raw();
    stream.write_all(&48_u32.to_le_bytes()).unwrap();
    stream.write_all(&[9; 48]).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
    assert!(matches!(server.rejection(), ControlError::Key { .. }));
}

#[test]
fn garbage_and_endless_frames_are_cut_off_and_others_are_served() {
    let mut server = Server::start();
    server.raw().write_all(b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n").unwrap();
    assert!(matches!(server.rejection(), ControlError::FrameTooLong { .. }));
    server.raw().write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(matches!(server.rejection(), ControlError::FrameTooLong { limit: 96, .. }));
    let mut half = server.raw();
    half.write_all(&[48, 0, 0]).unwrap();
    drop(half);
    assert!(matches!(server.rejection(), ControlError::Closed { .. } | ControlError::Connection { .. }));
    drop(server.client());
}

#[test]
fn silent_peers_are_dropped_and_keep_nobody_waiting() {
    let mut server = Server::start();
    let silent: Vec<TcpStream> = (0..20).map(|_| server.raw()).collect();
    let (_client, _replies, _kills) = server.client();
    let mut timed_out = 0;
    while timed_out < silent.len() {
        match server.next_word() {
            ServerEvent::Rejected(ControlError::TimedOut { .. }) => timed_out += 1,
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn without_a_coordinator_the_error_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = RunDir::new(folder.path());
    let text = ControlClient::connect(&folder, hello(), Arc::default(), |_| {}).unwrap_err().to_string();
    assert!(text.contains("coordinator.json"), "{text}");
    std::fs::write(folder.coordinator(), r#"{"address":"127.0.0.1:1","key":"ab","generation":1,"pid":1}"#).unwrap();
    let text = ControlClient::connect(&folder, hello(), Arc::default(), |_| {}).unwrap_err().to_string();
    assert!(text.contains("64 hexadecimal digits"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any message of any size arrives as it was sent; one flipped bit anywhere in a frame is noticed; too long ones are refused.
    #[test]
    fn frames_arrive_whole_or_not_at_all(size in 0_usize..300_000, flip in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let key = Key::generate().unwrap();
            let (worker, near) = tokio::io::duplex(2 * MESSAGE_LIMIT);
            let (far, coordinator) = tokio::io::duplex(2 * MESSAGE_LIMIT);
            // Handshake and first message pass; the bit flips in the second.
            tokio::spawn(relay(near, far, 2, move |frame| {
                let place = flip.index(frame.len());
                frame[place] ^= 1 << bit;
            }));
            let (worker, coordinator) = tokio::join!(
                handshake(tokio::io::split(worker), &key, Side::Initiator, "coordinator", LIMIT),
                handshake(tokio::io::split(coordinator), &key, Side::Responder, "worker", LIMIT),
            );
            let ((_worker, mut sender), (mut receiver, _coordinator)) = (worker.unwrap(), coordinator.unwrap());
            let message = "x".repeat(size);
            sender.send(&message).await.unwrap();
            assert_eq!(receiver.receive::<String>().await.unwrap().unwrap(), message);
            let too_long = sender.send(&"x".repeat(MESSAGE_LIMIT)).await;
            assert!(matches!(too_long, Err(ControlError::FrameTooLong { .. })));
            sender.send(&message).await.unwrap();
            assert!(matches!(receiver.receive::<String>().await, Err(ControlError::Key { .. })));
        });
    }
}

/// Carries frames from `near` to `far`, the first `intact` as they are and then one through `tamper`; bytes the other way as they are.
async fn relay(near: DuplexStream, far: DuplexStream, intact: usize, tamper: impl FnOnce(&mut Vec<u8>)) {
    let ((mut from_worker, mut to_worker), (mut from_coordinator, mut to_coordinator)) =
        (tokio::io::split(near), tokio::io::split(far));
    let back = tokio::io::copy(&mut from_coordinator, &mut to_worker);
    let forth = async {
        let mut tamper = Some(tamper);
        for number in 0..=intact {
            let length = from_worker.read_u32_le().await.unwrap();
            let mut frame = vec![0; length as usize];
            from_worker.read_exact(&mut frame).await.unwrap();
            if let Some(tamper) = tamper.take_if(|_| number == intact) {
                tamper(&mut frame);
            }
            to_coordinator.write_u32_le(length).await.unwrap();
            to_coordinator.write_all(&frame).await.unwrap();
        }
    };
    let _ = tokio::join!(back, forth);
}
