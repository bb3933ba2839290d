//! A small object server that speaks S3, and the dialect of it that Google's XML interface is, and misbehaves: it refuses, hangs up, keeps
//! silent, and hangs up after having done what it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What may happen to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// 503, and nothing is done.
    Refused,
    /// The connection ends before anything is done.
    HungUp,
    /// It is done, and the connection ends without an answer.
    AnswerLost,
    /// It is done, and the answer never comes.
    Silence,
    /// The connection ends in the middle of what was asked for.
    CutShort,
    /// What was asked for stops in the middle, and the connection stays.
    Stalled,
    /// One bit of what was asked for is another one.
    FlippedBit,
}

/// What may happen to whoever writes and reads.
pub const ANY: &[Fault] = &[Fault::Refused, Fault::HungUp, Fault::AnswerLost, Fault::Silence];
/// What may happen to whoever only reads, and knows what it has to be.
pub const READING: &[Fault] = &[Fault::Refused, Fault::HungUp, Fault::Silence, Fault::CutShort, Fault::Stalled, Fault::FlippedBit];
/// What may happen to whoever reads and writes at once, and cannot know what it reads.
pub const UNKNOWING: &[Fault] =
    &[Fault::Refused, Fault::HungUp, Fault::AnswerLost, Fault::Silence, Fault::CutShort, Fault::Stalled];

/// How the names of parts begin that are no object yet.
const UPLOADING: &str = "#uploading/";

/// Longer than the clients of a test wait.
const SILENCE: Duration = Duration::from_secs(4);

/// Of which requests, by method and key (empty for a list), and the status and code of the answer.
type Refusal = (fn(&str, &str) -> bool, &'static str, &'static str);

#[derive(Default)]
struct State {
    behaves: bool,
    refusal: Option<Refusal>,
    objects: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<Fault, usize>,
    traffic: BTreeMap<String, Traffic>,
    /// Objects of which a bit was another one once.
    spoilt: BTreeSet<String>,
}

/// What was read of an object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub requests: usize,
    pub bytes: usize,
}

/// The server; it serves until the test's process ends.
#[derive(Clone)]
pub struct ObjectServer {
    address: String,
    state: Arc<Mutex<State>>,
    may: &'static [Fault],
}

struct Request {
    method: String,
    /// Without the bucket's name.
    key: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl ObjectServer {
    /// Serves one bucket of any name; of each `one_in` requests one goes wrong in one of the ways `may`, in an order that follows from `seed`.
    pub fn start(may: &'static [Fault], one_in: u32, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap().to_string(), state: Arc::default(), may };
        let serving = server.clone();
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (server, random) = (serving.clone(), random.clone());
                // A client that hangs up ends its own thread only.
                thread::spawn(move || while server.serve(&stream, one_in, &random).is_some() {});
            }
        });
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tells a program where the bucket is, and not to wait long.
    pub fn introduce(&self, command: &mut Command) {
        let endpoint = self.url();
        let settings = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DISABLE_BULK_DELETE", "true"),
            ("AWS_TIMEOUT", "1s"),
            ("AWS_READ_TIMEOUT", "1s"),
        ];
        command.envs(settings);
    }

    /// Puts the files of a folder below `prefix`.
    pub fn fill(&self, prefix: &str, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let name = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                self.fill(&name, &entry.path());
            } else {
                self.state.lock().unwrap().objects.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }

    /// All objects by name.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.lock().unwrap();
        state
            .objects
            .iter()
            .filter(|(key, _)| !key.starts_with(UPLOADING))
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect()
    }

    /// Changes a bit of each object that `is_it` names.
    pub fn spoil(&self, is_it: impl Fn(&str) -> bool) {
        let mut state = self.state.lock().unwrap();
        let objects = state.objects.iter_mut().filter(|(name, _)| is_it(name));
        objects.for_each(|(_, bytes)| *bytes.last_mut().unwrap() ^= 1);
    }

    /// From now on nothing goes wrong.
    pub fn behave(&self) {
        self.state.lock().unwrap().behaves = true;
    }

    /// From now on refuses the requests that `is_it` names by method and key (empty for a list), with this status and code.
    pub fn refuse(&self, status: &'static str, code: &'static str, is_it: fn(&str, &str) -> bool) {
        self.state.lock().unwrap().refusal = Some((is_it, status, code));
    }

    /// From now on refuses nothing.
    pub fn permit(&self) {
        self.state.lock().unwrap().refusal = None;
    }

    /// How often what went wrong.
    pub fn faults(&self) -> BTreeMap<Fault, usize> {
        self.state.lock().unwrap().faults.clone()
    }

    /// What was read of an object.
    pub fn traffic(&self, name: &str) -> Traffic {
        self.state.lock().unwrap().traffic.get(name).copied().unwrap_or_default()
    }

    /// One request and its answer; nothing when the connection is over.
    fn serve(&self, stream: &TcpStream, one_in: u32, random: &Mutex<StdRng>) -> Option<()> {
        let request = read(stream)?;
        let fault = self.draw(one_in, &mut random.lock().unwrap());
        let answer = match fault {
            Some(Fault::HungUp) => return None,
            Some(Fault::Refused) => Answer { status: "503 Slow Down", headers: String::new(), body: Vec::new() },
            _ => self.answer(&request),
        };
        match fault {
            Some(Fault::AnswerLost) => return None,
            Some(Fault::Silence) => {
                thread::sleep(SILENCE);
                return None;
            }
            _ => {}
        }
        let head = request.method == "HEAD";
        let length = if answer.headers.contains("Content-Length") { String::new() } else { length(answer.body.len()) };
        let mut bytes = format!("HTTP/1.1 {}\r\n{}{length}\r\n", answer.status, answer.headers).into_bytes();
        let header = bytes.len();
        if !head {
            bytes.extend(answer.body);
        }
        let body = bytes.len() - header;
        let fault = fault.filter(|_| body > 0 && request.method == "GET" && !request.key.is_empty());
        match fault {
            Some(Fault::CutShort | Fault::Stalled) => bytes.truncate(header + body / 2),
            Some(Fault::FlippedBit) if self.may_spoil(&request.key) => bytes[header + body / 2] ^= 4,
            _ => {}
        }
        let cut = bytes.len() < header + body;
        let mut stream = stream;
        let written = stream.write_all(&bytes).ok();
        if fault == Some(Fault::Stalled) {
            thread::sleep(SILENCE);
        }
        written.filter(|()| !cut)
    }

    /// Shards are read again where they are damaged, once: so each is spoilt once.
    fn may_spoil(&self, key: &str) -> bool {
        key.ends_with(".safetensors") && self.state.lock().unwrap().spoilt.insert(key.to_owned())
    }

    /// What goes wrong this time.
    fn draw(&self, one_in: u32, random: &mut StdRng) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let fault = self.may[random.random_range(0..self.may.len())];
        let strikes = random.random_range(0..one_in) == 0 && !state.behaves;
        strikes.then(|| {
            *state.faults.entry(fault).or_default() += 1;
            fault
        })
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        let plain = |status| Answer { status, headers: String::new(), body: Vec::new() };
        if let Some((_, status, code)) = state.refusal.filter(|(is_it, ..)| is_it(&request.method, &request.key)) {
            let body = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>").into_bytes();
            return Answer { status, headers: XML.into(), body };
        }
        match request.method.as_str() {
            "PUT" if request.must_be_new() && state.objects.contains_key(&request.key) => plain("412 Precondition Failed"),
            "POST" if request.query.starts_with("uploads") => begin_upload(),
            "POST" => complete_upload(&mut state.objects, request),
            "PUT" => {
                let key = request.parameter("uploadId").map_or_else(|| request.key.clone(), |upload| part_key(request, upload));
                state.objects.insert(key, request.body.clone());
                Answer { status: "200 OK", headers: "ETag: \"x\"\r\n".into(), body: Vec::new() }
            }
            "DELETE" => {
                state.objects.remove(&request.key);
                plain("204 No Content")
            }
            "GET" if request.key.is_empty() => list(&state.objects, &request.query),
            "GET" | "HEAD" => {
                let answer = state.objects.get(&request.key).map(|bytes| object(bytes, request));
                let Some(answer) = answer else { return plain("404 Not Found") };
                let traffic = state.traffic.entry(request.key.clone()).or_default();
                traffic.requests += 1;
                traffic.bytes += if request.method == "GET" { answer.body.len() } else { 0 };
                answer
            }
            _ => plain("501 Not Implemented"),
        }
    }
}

impl Request {
    /// Whether it may only make a new object.
    fn must_be_new(&self) -> bool {
        self.headers.contains_key("if-none-match") || self.headers.contains_key("x-goog-if-generation-match")
    }

    /// A parameter of the query.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

fn length(bytes: usize) -> String {
    format!("Content-Length: {bytes}\r\n")
}

fn object(bytes: &[u8], request: &Request) -> Answer {
    let about = format!("ETag: \"x\"\r\nLast-Modified: {DATE}\r\n");
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else {
        return Answer { status: "200 OK", headers: about + &length(bytes.len()), body: bytes.to_vec() };
    };
    let first: usize = first.parse().unwrap();
    if first >= bytes.len() {
        return Answer { status: "416 Range Not Satisfiable", headers: about, body: Vec::new() };
    }
    let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    let headers = format!("{about}Content-Range: bytes {first}-{}/{}\r\n", end - 1, bytes.len());
    Answer { status: "206 Partial Content", headers, body: bytes[first..end].to_vec() }
}

const XML: &str = "Content-Type: application/xml\r\n";

fn begin_upload() -> Answer {
    static UPLOADS: AtomicUsize = AtomicUsize::new(0);
    let id = UPLOADS.fetch_add(1, Ordering::Relaxed);
    let body = format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
    Answer { status: "200 OK", headers: XML.into(), body: body.into_bytes() }
}

/// Where a part waits for the others.
fn part_key(request: &Request, upload: &str) -> String {
    let number: usize = request.parameter("partNumber").unwrap_or("0").parse().unwrap();
    format!("{UPLOADING}{upload}/{}/{number:05}", request.key)
}

fn complete_upload(objects: &mut BTreeMap<String, Vec<u8>>, request: &Request) -> Answer {
    let prefix = format!("{UPLOADING}{}/{}/", request.parameter("uploadId").unwrap(), request.key);
    let parts: Vec<String> = objects.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
    let whole = parts.iter().flat_map(|key| objects.remove(key).unwrap()).collect();
    objects.insert(request.key.clone(), whole);
    let body = b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>".to_vec();
    Answer { status: "200 OK", headers: XML.into(), body }
}

fn list(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Answer {
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default().replace("%2F", "/");
    let objects = objects.iter().filter(|(key, _)| !key.starts_with(UPLOADING));
    let entry = |(key, bytes): (&String, &Vec<u8>)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified><ETag>x</ETag><Size>{}</Size></Contents>",
            bytes.len()
        )
    };
    let entries: String = objects.filter(|(key, _)| key.starts_with(&prefix)).map(entry).collect();
    let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>");
    Answer { status: "200 OK", headers: XML.into(), body: body.into_bytes() }
}

/// With the bytes that `%2F` and the like stand for.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok()).flatten();
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    let key = String::from_utf8(percent_decoded(key.as_bytes())).unwrap();
    Some(Request { method, key, query: query.to_owned(), headers, body })
}
