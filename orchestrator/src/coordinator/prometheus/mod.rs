//! The present for Prometheus: `GET /metrics` answers with the figures of `status.json` in the text exposition format.
//!
//! Whoever can reach the port can ask, so it gives away figures only, answers nothing else, and a peer that is slow or comes a hundred
//! times at once costs a bounded number of connections for a bounded time.

mod page;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

pub(crate) use page::render;

use super::Status;

/// Connections at a time; more of them wait in the system's queue.
const CONNECTIONS: usize = 8;
/// Most time for the head of a request.
const HEAD: Duration = Duration::from_secs(2);
/// Most time for a connection, which is one request and its answer.
const WHOLE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, which is mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers on `listener` with the newest status, for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, status: watch::Receiver<Arc<Status>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there is always a place in the end.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let status = status.clone();
                tokio::spawn(async move {
                    // A peer that is too slow, or speaks no HTTP, is left alone; what it missed it can ask for again.
                    let _ = timeout(WHOLE, converse(stream, status)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn converse(stream: TcpStream, status: watch::Receiver<Arc<Status>>) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &status);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false).max_buf_size(16 << 10);
    server.serve_connection(TokioIo::new(stream), service).await
}

fn answer(method: &Method, path: &str, status: &watch::Receiver<Arc<Status>>) -> Response<String> {
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let mut response = match path {
        "/metrics" if reading => {
            let status = Arc::clone(&status.borrow());
            let mut response = Response::new(render(&status));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
            return response;
        }
        "/metrics" => Response::new("only GET\n".to_owned()),
        _ => Response::new("the figures are at /metrics\n".to_owned()),
    };
    *response.status_mut() = if path == "/metrics" { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
    if path == "/metrics" {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::status;
    use crate::supervisor::State;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream as Plain};

    /// A server in a thread of its own, which ends with the test's process.
    fn server() -> (SocketAddr, watch::Sender<Arc<Status>>) {
        let (sender, receiver) = watch::channel(Arc::new(status(State::Running, 2)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { serve(TcpListener::from_std(listener).unwrap(), receiver).await });
        });
        (address, sender)
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = Plain::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_newest_status_is_served_and_nothing_else() {
        let (address, sender) = server();
        let get = "GET /metrics HTTP/1.1\r\nHost: n1\r\n\r\n";
        let text = ask(address, get);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\nlsd_steps_done 1200\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4") && text.contains("connection: close"), "{text}");
        sender.send(Arc::new(Status { generation: 77, ..status(State::Stopping, 2) })).unwrap();
        let text = ask(address, get);
        assert!(text.contains("\nlsd_generation 77\n") && text.contains("lsd_state{state=\"stopping\"} 1\n"), "{text}");
        assert!(ask(address, "GET / HTTP/1.1\r\nHost: n1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(ask(address, "what is this\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn peers_that_say_nothing_do_not_keep_others_out_for_long() {
        let (address, _sender) = server();
        let silent: Vec<Plain> = (0..CONNECTIONS).map(|_| Plain::connect(address).unwrap()).collect();
        let text = ask(address, "GET /metrics HTTP/1.0\r\n\r\n");
        assert!(text.contains(" 200 OK\r\n"), "{text}");
        drop(silent);
    }
}
