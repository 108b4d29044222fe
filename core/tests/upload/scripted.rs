//! A scripted S3 server for tests, in the process: what a store or a network may do, without Postgres and in milliseconds.
//!
//! It keeps nothing. What the script leaves to it is answered as S3 answers a request that went well.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use s3_export_core::s3::client::{Connection, Store};
use s3_export_core::s3::network::Network;

use super::export::connection;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and headers.
    pub head: String,
    /// Its body, of up to some kilobytes.
    pub body: String,
    /// Its place among all requests, from 1.
    pub number: usize,
}

impl Request {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether its line begins and goes on like that.
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.head.starts_with(method) && self.head.lines().next().is_some_and(|line| line.contains(part))
    }
}

/// The server's reaction to a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// S3's answer to a request that went well.
    Usual,
    /// A status line with headers, each line but the last ended by CR and LF, and a body.
    Answer(&'static str, &'static str),
    /// A status line with headers, and a body of many megabytes in chunks. The counter has the bytes that went out.
    Endless(&'static str, Arc<AtomicUsize>),
    /// The connection breaks.
    Break,
}

/// Listens until the test's process ends.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), Duration::ZERO, script)
    }

    /// Takes next to nothing of a body before `pause` has passed.
    pub fn slow(pause: Duration, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // Otherwise the kernel takes several megabytes by itself.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(16).unwrap();
        Self::on(socket.into(), pause, script)
    }

    fn on(listener: TcpListener, pause: Duration, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let server = Server { address, requests: Arc::default() };
        let (requests, script) = (Arc::clone(&server.requests), Arc::new(script));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (requests, script) = (Arc::clone(&requests), Arc::clone(&script));
                thread::spawn(move || serve(client, pause, &requests, &*script));
            }
        });
        server
    }

    /// Returns the requests that have come so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// A store that speaks to it.
    pub async fn store(&self, network: &Arc<Network>) -> Store {
        Store::open(&self.connection(), "bucket", network).await.unwrap()
    }

    /// The settings of a store that speaks to it.
    pub fn connection(&self) -> Connection {
        connection(format!("http://{}", self.address))
    }
}

/// A client that goes away in the middle is nobody's concern.
fn serve(
    mut client: TcpStream,
    pause: Duration,
    requests: &Mutex<Vec<Request>>,
    script: &impl Fn(&Request) -> Reply,
) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let read = client.read(&mut buffer).ok().filter(|&read| read > 0)?;
            bytes.extend_from_slice(&buffer[..read]);
        };
        let mut body = bytes.split_off(end);
        let mut request = Request { head: String::from_utf8_lossy(&bytes).into_owned(), body: String::new(), number: 0 };
        let length: usize = request.header("content-length").map_or(0, |value| value.parse().unwrap());
        if request.header("expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let mut left = length.checked_sub(body.len()).unwrap();
        if left > 0 {
            thread::sleep(pause);
        }
        while left > 0 {
            let most = left.min(buffer.len());
            let read = client.read(&mut buffer[..most]).ok().filter(|&read| read > 0)?;
            left -= read;
            if body.len() < buffer.len() {
                body.extend_from_slice(&buffer[..read]);
            }
        }
        request.body = String::from_utf8_lossy(&body).into_owned();
        bytes.clear();
        {
            let mut requests = requests.lock().unwrap();
            request.number = requests.len() + 1;
            requests.push(request.clone());
        }
        let answer = match script(&request) {
            Reply::Usual => usual(&request),
            Reply::Answer(head, body) => with_length(head, body),
            Reply::Endless(head, sent) => return endless(&mut client, head, &sent),
            Reply::Break => return None,
        };
        let is_head = request.head.starts_with("HEAD");
        let answer = if is_head { answer.split_inclusive("\r\n\r\n").next().unwrap_or(&answer).to_owned() } else { answer };
        client.write_all(answer.as_bytes()).ok()?;
    }
}

/// Bytes of a body that goes on and on: enough for a test to see it, and few enough for its memory.
pub const ENDLESS: usize = 200 << 20;

fn endless(client: &mut TcpStream, head: &str, sent: &AtomicUsize) -> Option<()> {
    const CHUNK: usize = 64 << 10;
    let chunk = format!("{CHUNK:x}\r\n{}\r\n", " ".repeat(CHUNK));
    client.write_all(format!("{head}\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).ok()?;
    for _ in 0..ENDLESS / CHUNK {
        client.write_all(chunk.as_bytes()).ok()?;
        sent.fetch_add(CHUNK, Ordering::Relaxed);
    }
    client.write_all(b"0\r\n\r\n").ok()
}

fn usual(request: &Request) -> String {
    let tag = "HTTP/1.1 200 OK\r\netag: \"1\"";
    match () {
        () if request.is("POST", "?uploads") => with_length(
            tag,
            "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>key</Key><UploadId>upload</UploadId></InitiateMultipartUploadResult>",
        ),
        () if request.is("POST", "uploadId=") => with_length(
            tag,
            "<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>key</Key><ETag>\"1\"</ETag></CompleteMultipartUploadResult>",
        ),
        () if request.is("POST", "?delete") => with_length(tag, "<DeleteResult></DeleteResult>"),
        () if request.is("GET", "?uploads") => {
            with_length(tag, "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
        }
        () if request.is("DELETE", "") => with_length("HTTP/1.1 204 No Content", ""),
        () => with_length(tag, ""),
    }
}

fn with_length(head: &str, body: &str) -> String {
    let length = if head.contains("204") { String::new() } else { format!("\r\ncontent-length: {}", body.len()) };
    format!("{head}{length}\r\n\r\n{body}")
}
