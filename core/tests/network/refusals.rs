//! Proxies that give no tunnel.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use s3_export_core::error::Code;
use s3_export_core::s3::Failure;
use s3_export_core::s3::client::plain_config;
use s3_export_core::s3::network::Reach;

use super::connect_proxy::{ConnectProxy, Manner};
use super::servers::{Names, ask, block_on, network, proxy};

fn refused(answer: Vec<u8>) -> (Failure, ConnectProxy) {
    let asked = ConnectProxy::start(Manner::Say(answer));
    let failure = ask(&network(Names(None), proxy(&asked.url(), "")), Reach::Private, "https://store.example").unwrap_err();
    (failure, asked)
}

#[test]
fn a_refusal_names_the_proxy_and_the_status_and_nothing_of_its_page() {
    for (status, is_passing, hint) in [
        ("403 Forbidden", false, "no_proxy"),
        ("407 Proxy Authentication Required", false, "proxy_credentials_file"),
        ("302 Found\r\nlocation: http://portal.example", false, "no_proxy"),
        ("502 Bad Gateway", true, "no_proxy"),
        ("503 Service Unavailable", true, "no_proxy"),
        ("429 Too Many Requests", true, "no_proxy"),
    ] {
        let page = format!("HTTP/1.1 {status}\r\nx-secret: hidden\r\ncontent-length: 6\r\n\r\nhidden");
        let (failure, asked) = refused(page.into_bytes());
        let Failure { error, transient, outcome_unknown, .. } = &failure;
        assert_eq!((error.code(), *transient, *outcome_unknown), (Code::Connection, is_passing, false), "{error:?}");
        assert!(error.message().contains(&asked.address.to_string()), "{error:?}");
        let (detail, number) = (error.detail_text().unwrap(), status.split(' ').next().unwrap());
        assert!(detail.contains(&format!("answered {number} when it was asked for store.example:443")), "{detail}");
        assert!(error.hint_text().unwrap().contains(hint), "{error:?}");
        assert!(!format!("{error:?}").contains("hidden") && !format!("{error:?}").contains("portal"), "{error:?}");
    }
}

#[test]
fn what_is_no_answer_of_a_proxy_is_an_error() {
    let long = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let many = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(1000), b"\r\n".to_vec()].concat();
    for (answer, what, is_passing) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), "not HTTP", false),
        (vec![0x15, 3, 3, 0, 2, 2, 80], "not HTTP", false),
        // Bytes that would pass for the store's.
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), "not HTTP", false),
        (long, "too long", false),
        (many, "too long", false),
        (b"".to_vec(), "ended the connection", true),
        (b"HTTP/1.1 200 Conn".to_vec(), "ended the connection", true),
    ] {
        let (failure, asked) = refused(answer);
        let error = &failure.error;
        assert_eq!(
            (error.code(), failure.transient, failure.outcome_unknown),
            (Code::Connection, is_passing, false),
            "{error:?}"
        );
        let detail = error.detail_text().unwrap();
        assert!(detail.contains(what) && detail.contains(&asked.address.to_string()), "{what}: {detail}");
    }
}

#[test]
fn a_proxy_that_is_not_there_is_an_error_that_names_it() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let network = network(Names(None), proxy(&format!("http://{address}"), ""));
    let failure = ask(&network, Reach::Private, "https://store.example").unwrap_err();
    assert!(failure.transient && failure.error.message().contains(&address.to_string()), "{:?}", failure.error);
    assert!(failure.error.detail_text().unwrap().contains("cannot be reached"), "{:?}", failure.error);
}

#[test]
fn a_proxy_that_says_nothing_is_given_up_in_the_time_of_a_connection() {
    let asked = ConnectProxy::start(Manner::Hang);
    let network = network(Names(None), proxy(&asked.url(), ""));
    let limit = TimeoutConfig::builder().connect_timeout(Duration::from_millis(300)).build();
    let config = plain_config("us-east-1").allow_no_auth().endpoint_url("https://store.example").timeout_config(limit);
    let client = Client::from_conf(config.http_client(network.within(Reach::Private)).build());
    let start = Instant::now();
    let error = block_on(client.head_bucket().bucket("bucket").send()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let failure = Failure::new("look", "s3://bucket", &error);
    assert!(failure.transient && !failure.outcome_unknown, "{failure:?}");
    let detail = failure.error.detail_text().unwrap();
    assert!(detail.contains(&asked.address.to_string()) && detail.contains("within 0.3 s"), "{detail}");
}
