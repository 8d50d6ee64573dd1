//! A registry in this process that counts, and misbehaves as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrogate_image::Digest;

use super::Built;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Lower-case names.
    pub headers: HashMap<String, String>,
    /// How many of this method and path came before.
    pub before: usize,
}

impl Request {
    pub fn range_start(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Clone, Debug)]
pub enum Action {
    /// As a good registry would.
    Serve,
    /// As a registry that knows no Range.
    ServeWhole,
    /// The whole announced, this many bytes of it sent.
    Truncate(usize),
    /// In pieces of so many bytes, with a pause after each.
    Dribble(usize, Duration),
    /// Says nothing until the client goes.
    Hang,
    /// Closes at once.
    Close,
    /// This status, headers (each ending in CRLF) and body, with its true length.
    Answer(u16, String, Vec<u8>),
    /// Chunks without end.
    Endless,
}

type Behaviour = dyn Fn(&Request) -> Action + Send + Sync;

struct State {
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    requests: Mutex<Vec<Request>>,
    behaviour: Box<Behaviour>,
    stopped: AtomicBool,
}

pub struct FakeRegistry {
    pub address: String,
    state: Arc<State>,
}

impl FakeRegistry {
    pub fn start(behaviour: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            requests: Mutex::default(),
            behaviour: Box::new(behaviour),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.answer(stream.unwrap()));
            }
        });
        FakeRegistry { address, state }
    }

    pub fn good() -> Self {
        Self::start(|_| Action::Serve)
    }

    /// By tag and by digest.
    pub fn add(&self, version: &str, image: &Built) {
        let mut manifests = self.state.manifests.lock().unwrap();
        let manifest = (image.media_type.clone(), image.manifest.clone());
        manifests.insert(version.to_owned(), manifest.clone());
        manifests.insert(image.digest().to_string(), manifest);
        self.state.blobs.lock().unwrap().extend(image.blobs.clone());
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.state.requests.lock().unwrap());
        taken.into_iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

impl State {
    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some(request) = self.read(&mut reader) else { return };
        let known = self.find(&request.path);
        let result = match (self.behaviour)(&request) {
            Action::Close => return,
            Action::Hang => reader.read(&mut [0]).map(drop),
            Action::Answer(status, headers, body) => {
                respond(&mut stream, &request, status, &headers, &body, body.len())
            }
            Action::Endless => endless(&mut stream),
            action => match known {
                None => {
                    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                    respond(&mut stream, &request, 404, "", body, body.len())
                }
                Some((headers, body)) => match (action, request.range_start()) {
                    (Action::Truncate(bytes), start) => {
                        let body = &body[start.unwrap_or(0)..];
                        let status = if start.is_some() { 206 } else { 200 };
                        let headers = format!("{headers}{}", content_range(start, body));
                        respond(
                            &mut stream,
                            &request,
                            status,
                            &headers,
                            &body[..bytes.min(body.len())],
                            body.len(),
                        )
                    }
                    (Action::Dribble(piece, pause), start) => {
                        let body = &body[start.unwrap_or(0)..];
                        let status = if start.is_some() { 206 } else { 200 };
                        let headers = format!("{headers}{}", content_range(start, body));
                        respond(&mut stream, &request, status, &headers, b"", body.len())
                            .and_then(|()| dribble(&mut stream, body, piece, pause))
                    }
                    (Action::Serve, Some(start)) => {
                        let body = &body[start..];
                        let headers = format!("{headers}{}", content_range(Some(start), body));
                        respond(&mut stream, &request, 206, &headers, body, body.len())
                    }
                    _ => respond(&mut stream, &request, 200, &headers, &body, body.len()),
                },
            },
        };
        // A client that has gone is no failure here.
        let _ = result;
    }

    fn read(&self, reader: &mut impl BufRead) -> Option<Request> {
        let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let first = lines.next()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers = lines
            .filter_map(|line| {
                line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            })
            .collect();
        let mut requests = self.requests.lock().unwrap();
        let before = requests.iter().filter(|other| other.method == method && other.path == path).count();
        let request = Request { method, path, headers, before };
        requests.push(request.clone());
        Some(request)
    }

    fn find(&self, path: &str) -> Option<(String, Vec<u8>)> {
        let name = path.rsplit('/').next()?;
        if path.contains("/manifests/") {
            let manifests = self.manifests.lock().unwrap();
            let (media_type, bytes) = manifests.get(name)?;
            let digest = Digest::of(bytes);
            return Some((
                format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n"),
                bytes.clone(),
            ));
        }
        let digest = Digest::parse(name).ok()?;
        Some((String::new(), self.blobs.lock().unwrap().get(&digest)?.clone()))
    }
}

fn content_range(start: Option<usize>, body: &[u8]) -> String {
    let Some(start) = start else { return String::new() };
    let whole = start + body.len();
    format!("Content-Range: bytes {start}-{}/{whole}\r\n", whole - 1)
}

fn respond(
    stream: &mut TcpStream,
    request: &Request,
    status: u16,
    headers: &str,
    body: &[u8],
    length: usize,
) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.flush()
}

fn dribble(stream: &mut TcpStream, body: &[u8], piece: usize, pause: Duration) -> std::io::Result<()> {
    for piece in body.chunks(piece) {
        stream.write_all(piece)?;
        stream.flush()?;
        std::thread::sleep(pause);
    }
    Ok(())
}

fn endless(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    loop {
        stream.write_all(&chunk)?;
    }
}
