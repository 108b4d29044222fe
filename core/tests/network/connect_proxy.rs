//! A proxy that writes down what it is asked for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the proxy does with whoever asks.
#[derive(Clone)]
pub enum Manner {
    /// Every tunnel leads to this address, whatever it was asked for.
    To(SocketAddr),
    /// These bytes are the answer; then the connection ends.
    Say(Vec<u8>),
    /// Nothing is said until the client goes.
    Hang,
}

/// Listens until the test's process ends.
pub struct ConnectProxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = ConnectProxy { address: listener.local_addr().unwrap(), heads: Arc::default() };
        let heads = Arc::clone(&proxy.heads);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (heads, manner) = (Arc::clone(&heads), manner.clone());
                std::thread::spawn(move || serve(client, &heads, manner));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Hosts and ports that the proxy was asked for.
    pub fn targets(&self) -> Vec<String> {
        self.heads().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

fn serve(mut client: TcpStream, heads: &Mutex<Vec<String>>, manner: Manner) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("CONNECT "), "{head}");
    heads.lock().unwrap().push(head);
    match manner {
        Manner::Say(bytes) => {
            let _ = client.write_all(&bytes);
        }
        Manner::Hang => while matches!(client.read(&mut [0; 64]), Ok(1..)) {},
        Manner::To(address) => {
            let server = TcpStream::connect(address).unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\nvia: tests\r\n\r\n").unwrap();
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let pump = std::thread::spawn(move || pump(from, to));
            self::pump(server, client);
            pump.join().unwrap();
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
