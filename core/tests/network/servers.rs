//! Servers and names for these tests.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::Client;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use s3_export_core::s3::Failure;
use s3_export_core::s3::client::plain_config;
use s3_export_core::s3::network::{Network, Proxy, Reach, Trust};

/// The one answer of every server here.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-amz-bucket-region: eu-1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Every name means this address; `None`: there are no names.
#[derive(Debug, Clone)]
pub struct Names(pub Option<IpAddr>);

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, _name: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(self.0.map(|address| vec![address]).ok_or_else(|| ResolveDnsError::new("no such name")))
    }
}

/// Nobody answers a question for a name.
#[derive(Debug, Clone)]
pub struct SilentNames;

impl ResolveDns for SilentNames {
    fn resolve_dns<'a>(&'a self, _name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(std::future::pending())
    }
}

/// A server over plain http or TLS, which counts its connections.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Starts a server with a self-signed certificate for `name`; also gives the certificate, in PEM.
    pub fn over_tls(name: &str) -> (Self, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        (Self::listen(Some(Arc::new(config))), certificate.pem())
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { address: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = Arc::clone(&server.connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::Relaxed);
                let tls = tls.clone();
                std::thread::spawn(move || match tls {
                    None => answer(client),
                    Some(tls) => answer(StreamOwned::new(ServerConnection::new(tls).unwrap(), client)),
                });
            }
        });
        server
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn answer(mut client: impl Read + Write) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let _ = client.write_all(ANSWER).and_then(|()| client.flush());
}

pub fn proxy(url: &str, exceptions: &str) -> Option<Proxy> {
    Some(Proxy::new(url, None, exceptions).unwrap())
}

/// A network whose names are these.
pub fn network(names: impl ResolveDns + 'static, proxy: Option<Proxy>) -> Network {
    Network::with_names(Trust::System, names).through(proxy).unwrap()
}

/// Asks for a bucket at that endpoint.
pub fn ask(network: &Network, reach: Reach, endpoint: &str) -> Result<(), Failure> {
    let config = plain_config("us-east-1").allow_no_auth().endpoint_url(endpoint).force_path_style(true);
    let client = Client::from_conf(config.http_client(network.within(reach)).build());
    let answer = block_on(client.head_bucket().bucket("bucket").send());
    answer.map(|_| ()).map_err(|error| Failure::new("look", "s3://bucket", &error))
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
