//! One tunnel: a CONNECT to the proxy, and its answer.
//!
//! Written by hand where hyper-util has a `Tunnel`: that one does not tell the status of a refusal.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::time::Duration;

use aws_sdk_s3::error::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::s3::network::proxy::Proxy;

/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Most headers of a proxy's answer.
const MAX_HEADERS: usize = 64;

/// Asks for a tunnel.
pub async fn connect(mut stream: TcpStream, target: &str, proxy: &Proxy) -> Result<TcpStream, Fault> {
    let authorization = match proxy.authorization() {
        Some(value) => format!("Proxy-Authorization: {}\r\n", value.expose()),
        None => String::new(),
    };
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(Fault::Broken)?;
    let (mut head, mut length) = (vec![0; MAX_HEAD], 0);
    loop {
        let room = head.get_mut(length..).unwrap_or_default();
        match stream.read(room).await.map_err(Fault::Broken)? {
            0 => return Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into())),
            count => length += count,
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(head.get(..length).unwrap_or_default()) {
            Ok(httparse::Status::Complete(end)) => {
                return match answer.code {
                    // The server behind the tunnel says nothing before it is asked.
                    Some(200..=299) if end < length => Err(Fault::Garbage),
                    Some(200..=299) => Ok(stream),
                    Some(status) => Err(Fault::Status(status)),
                    None => Err(Fault::Garbage),
                };
            }
            Ok(httparse::Status::Partial) if length < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLong),
            Err(_) => return Err(Fault::Garbage),
        }
    }
}

/// A tunnel that does not stand. No text of the proxy's is in it.
#[derive(Debug)]
pub struct ProxyFailure {
    /// `host:port` of the proxy.
    pub proxy: String,
    /// `host:port` that the proxy was asked for.
    pub target: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a tunnel.
#[derive(Debug)]
pub enum Fault {
    /// No connection to the proxy came about.
    Unreachable(BoxError),
    /// No tunnel stood within this time.
    Silent(Duration),
    /// The connection to the proxy broke.
    Broken(io::Error),
    /// This answer.
    Status(u16),
    /// An answer that is none of HTTP, or more than an answer.
    Garbage,
    /// An answer longer than [`MAX_HEAD`].
    TooLong,
    /// The host has no address here that could be checked.
    UnknownHere,
}

impl fmt::Display for ProxyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProxyFailure { proxy, target, fault } = self;
        match fault {
            Fault::Unreachable(_) => write!(f, "the proxy {proxy} cannot be reached"),
            Fault::Silent(limit) => {
                write!(f, "the proxy {proxy} gave no tunnel to {target} within {:.1} s", limit.as_secs_f64())
            }
            Fault::Broken(_) => write!(f, "the proxy {proxy} ended the connection when it was asked for {target}"),
            Fault::Status(status) => write!(f, "the proxy {proxy} answered {status} when it was asked for {target}"),
            Fault::Garbage => write!(f, "the proxy {proxy} gave an answer that is not HTTP when it was asked for {target}"),
            Fault::TooLong => write!(f, "the proxy {proxy} gave too long an answer when it was asked for {target}"),
            Fault::UnknownHere => {
                write!(f, "{target} has no address here that could be checked, so the proxy {proxy} is not asked for it")
            }
        }
    }
}

impl std::error::Error for ProxyFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Unreachable(error) => Some(error.as_ref()),
            Fault::Broken(error) => Some(error),
            _ => None,
        }
    }
}
