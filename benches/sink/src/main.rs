//! An S3 server that counts what it is sent and keeps none of it, so that a benchmark measures who sends.
//!
//! `sink CERTIFICATE ADDRESS...` listens at each address, `http://host:port` or `https://host:port`; `+50ms` after it delays each
//! answer by so much. Its certificate is written to the file CERTIFICATE, in PEM. What it answers is what clients need to write
//! objects, in one request or in parts; it checks no signature and no checksum. `GET /?tally` tells what came since the last
//! `POST /?reset`: requests, objects, bytes and lines, one number a line, the lines without those of manifests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Bytes and lines of an object, or of a part of one.
#[derive(Clone, Copy, Default)]
struct Size {
    bytes: u64,
    lines: u64,
}

/// What came since the last reset.
#[derive(Default)]
struct Tally {
    requests: u64,
    objects: HashMap<String, Size>,
    /// By upload id and number.
    parts: HashMap<(String, String), Size>,
    uploads: u64,
}

struct Address {
    socket: SocketAddr,
    is_tls: bool,
    delay: Duration,
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (socket, delay) = rest.split_once('+').unwrap_or((rest, "0ms"));
        let delay = Duration::from_millis(delay.strip_suffix("ms")?.parse().ok()?);
        Some(Address { socket: socket.parse().ok()?, is_tls: scheme == "https", delay })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let certificate = arguments.next().ok_or("usage: sink CERTIFICATE ADDRESS...")?;
    let acceptor = acceptor(&certificate)?;
    let tally = Arc::<Mutex<Tally>>::default();
    let mut listening = tokio::task::JoinSet::new();
    for argument in arguments {
        let address = Address::parse(&argument).ok_or(format!("{argument} is no address"))?;
        let listener = TcpListener::bind(address.socket).await?;
        listening.spawn(listen(listener, address, acceptor.clone(), Arc::clone(&tally)));
    }
    listening.join_all().await;
    Ok(())
}

/// With a new certificate for 127.0.0.1.
fn acceptor(file: &str) -> Result<TlsAcceptor, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    std::fs::write(file, made.cert.pem())?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn listen(listener: TcpListener, address: Address, acceptor: TlsAcceptor, tally: Arc<Mutex<Tally>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // As servers do: an answer must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        let (tally, acceptor) = (Arc::clone(&tally), address.is_tls.then(|| acceptor.clone()));
        tokio::spawn(connection(stream, acceptor, address.delay, tally));
    }
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, delay: Duration, tally: Arc<Mutex<Tally>>) {
    match acceptor {
        None => serve(stream, delay, tally).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, delay, tally).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, delay: Duration, tally: Arc<Mutex<Tally>>) {
    let service = service_fn(move |request| {
        let tally = Arc::clone(&tally);
        async move {
            let answer = answer(request, &tally).await;
            if delay > Duration::ZERO {
                tokio::time::sleep(delay).await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // A client that goes away is none of ours.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, tally: &Mutex<Tally>) -> Response<Full<Bytes>> {
    let (head, mut body) = request.into_parts();
    let mut size = Size::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return text(StatusCode::BAD_REQUEST, String::new()) };
        if let Some(data) = frame.data_ref() {
            size.bytes += data.len() as u64;
            size.lines += memchr::memchr_iter(b'\n', data).count() as u64;
        }
    }
    let query = |name: &str| {
        let pairs = head.uri.query().unwrap_or_default().split('&');
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
    };
    let key = head.uri.path().to_owned();
    let is_bucket = key.trim_matches('/').split('/').count() == 1;
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match (&head.method, query("uploadId")) {
        (&Method::GET, _) if query("tally").is_some() => {
            let mut sum = Size::default();
            for (key, size) in &tally.objects {
                sum.bytes += size.bytes;
                sum.lines += if key.ends_with(".manifest") { 0 } else { size.lines };
            }
            return text(
                StatusCode::OK,
                format!("{}\n{}\n{}\n{}\n", tally.requests, tally.objects.len(), sum.bytes, sum.lines),
            );
        }
        (&Method::POST, _) if query("reset").is_some() => {
            *tally = Tally::default();
            return text(StatusCode::OK, String::new());
        }
        _ => tally.requests += 1,
    }
    match (&head.method, query("uploadId")) {
        (&Method::PUT, Some(upload)) => {
            tally.parts.insert((upload, query("partNumber").unwrap_or_default()), size);
            stored()
        }
        (&Method::PUT, None) => {
            tally.objects.insert(key, size);
            stored()
        }
        (&Method::POST, None) if query("uploads").is_some() => {
            tally.uploads += 1;
            let id = format!("upload{}", tally.uploads);
            xml("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
        }
        (&Method::POST, Some(upload)) => {
            let of_upload: Vec<_> = tally.parts.keys().filter(|part| part.0 == upload).cloned().collect();
            let mut whole = Size::default();
            for part in of_upload {
                let size = tally.parts.remove(&part).unwrap_or_default();
                whole = Size { bytes: whole.bytes + size.bytes, lines: whole.lines + size.lines };
            }
            tally.objects.insert(key, whole);
            xml("CompleteMultipartUploadResult", "<ETag>\"0\"</ETag>")
        }
        (&Method::POST, None) => xml("DeleteResult", ""),
        (&Method::DELETE, _) => text(StatusCode::NO_CONTENT, String::new()),
        (&Method::GET, _) if query("list-type").is_some() || is_bucket => {
            xml("ListBucketResult", "<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>")
        }
        (&Method::HEAD, _) if is_bucket => {
            let mut answer = text(StatusCode::OK, String::new());
            answer.headers_mut().insert("x-amz-bucket-region", hyper::header::HeaderValue::from_static("us-east-1"));
            answer
        }
        _ => text(StatusCode::NOT_FOUND, String::new()),
    }
}

fn stored() -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::OK, String::new());
    answer.headers_mut().insert("etag", hyper::header::HeaderValue::from_static("\"0\""));
    answer
}

fn xml(element: &str, content: &str) -> Response<Full<Bytes>> {
    let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
    text(
        StatusCode::OK,
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{element} xmlns=\"{namespace}\">{content}</{element}>"),
    )
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer
}
