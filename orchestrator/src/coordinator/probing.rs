//! Asking a lost host for a sign of life, again and again until it gives one.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::supervisor::Event;

/// Time for one answer.
const LIMIT: Duration = Duration::from_millis(1000);
/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Becomes an event as soon as a connection to `port` of `host` is taken: then what starts workers there is running.
pub(super) async fn until_it_answers(host: String, port: u16, events: mpsc::UnboundedSender<Event>) {
    while !events.is_closed() {
        if let Ok(Ok(_)) = timeout(LIMIT, TcpStream::connect((host.as_str(), port))).await {
            // Without a receiver the launch is over.
            let _ = events.send(Event::HostAnswers { host });
            return;
        }
        sleep(PAUSE).await;
    }
}
