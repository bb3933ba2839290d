//! How the sockets of the control channel are set: a peer whose host is cut off or dead is noticed by the system itself, however busy
//! the processes are. A process that is merely stopped does not look like that, because its system still answers.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the other host is asked for a sign of life, and time between two such questions.
const ASK: Duration = Duration::from_secs(1);
/// Unanswered questions after which the connection is over.
const QUESTIONS: u32 = 3;
/// Time that sent bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_millis(4000);

/// Sends small messages at once, and ends the connection within [`UNACKNOWLEDGED`] when the other host does not answer.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASK).with_interval(ASK).with_retries(QUESTIONS))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}
