//! A proxy is asked for nothing that an integration may not reach.

use std::net::IpAddr;

use s3_export_core::error::Code;
use s3_export_core::s3::network::Reach;

use super::connect_proxy::{ConnectProxy, Manner};
use super::servers::{Names, Server, SilentNames, ask, network, proxy};

/// Everything that is let through would succeed.
fn open_proxy() -> (ConnectProxy, Server) {
    let server = Server::start();
    (ConnectProxy::start(Manner::To(server.address)), server)
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn attack_ssrf_through_the_proxy_by_address() {
    let (asked, _server) = open_proxy();
    let network = network(Names(address("52.0.0.1")), proxy(&asked.url(), ""));
    for (reach, hosts) in [
        (Reach::Public, &["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "192.168.1.1:8080"][..]),
        (Reach::Private, &["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"][..]),
    ] {
        for host in hosts {
            let failure = ask(&network, reach, &format!("http://{host}")).unwrap_err();
            assert_eq!(failure.error.code(), Code::Privilege, "{host}: {:?}", failure.error);
        }
    }
    assert!(asked.heads().is_empty(), "{:?}", asked.heads());
    // What a superuser may reach here may be reached there.
    ask(&network, Reach::Private, "http://10.0.0.1").unwrap();
}

#[test]
fn attack_ssrf_through_the_proxy_by_a_name_that_means_such_an_address() {
    let (asked, _server) = open_proxy();
    for (reach, means) in [
        (Reach::Public, "10.0.0.1"),
        (Reach::Public, "127.0.0.1"),
        (Reach::Public, "169.254.169.254"),
        (Reach::Private, "169.254.169.254"),
        (Reach::Private, "fd00:ec2::254"),
    ] {
        let network = network(Names(address(means)), proxy(&asked.url(), ""));
        let failure = ask(&network, reach, "https://innocent.example").unwrap_err();
        assert_eq!(failure.error.code(), Code::Privilege, "{means}: {:?}", failure.error);
    }
    assert!(asked.heads().is_empty(), "{:?}", asked.heads());
    ask(&network(Names(address("52.0.0.1")), proxy(&asked.url(), "")), Reach::Public, "http://innocent.example").unwrap();
}

/// Programs such as curl and many proxies take these for 169.254.169.254 and 127.0.0.1.
#[test]
fn attack_ssrf_through_the_proxy_by_a_number() {
    let (asked, _server) = open_proxy();
    let network = network(Names(None), proxy(&asked.url(), ""));
    for reach in [Reach::Public, Reach::Private] {
        for host in ["2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "169.254.43518", "0251.0376.0251.0376", "127.1"] {
            let failure = ask(&network, reach, &format!("http://{host}"));
            assert!(failure.is_err(), "{host}");
        }
    }
    assert!(asked.heads().is_empty(), "{:?}", asked.heads());
}

#[test]
fn a_name_that_the_proxy_alone_knows_is_for_superusers_and_amazon() {
    let (asked, _server) = open_proxy();
    for silent in [false, true] {
        let proxy = proxy(&asked.url(), "");
        let network = if silent { network(SilentNames, proxy) } else { network(Names(None), proxy) };
        let failure = ask(&network, Reach::Public, "http://inside.example").unwrap_err();
        assert_eq!(failure.error.code(), Code::Connection, "{:?}", failure.error);
        assert!(failure.error.message().contains("no address that can be checked"), "{:?}", failure.error);
        assert!(failure.error.hint_text().unwrap().contains("superuser"), "{:?}", failure.error);
        let before = asked.heads().len();
        // The second time, nobody is asked for the name.
        let start = std::time::Instant::now();
        for _ in 0..3 {
            ask(&network, Reach::Private, "http://inside.example").unwrap();
        }
        assert_eq!(asked.heads().len(), before + 3);
        assert!(start.elapsed() < std::time::Duration::from_millis(1900), "{:?}", start.elapsed());
    }
}

/// A VPC's interface endpoint has addresses of the VPC. With private DNS, Amazon's own names have them too.
#[test]
fn a_private_endpoint_is_reached_by_amazons_name_and_by_a_superusers() {
    let server = Server::start();
    let network = network(Names(Some(server.address.ip())), None);
    let port = server.address.port();
    for name in ["bucket.vpce-0a-1b.s3.eu-west-1.vpce.amazonaws.com", "s3.eu-west-1.amazonaws.com"] {
        ask(&network, Reach::Private, &format!("http://{name}:{port}")).unwrap();
        let failure = ask(&network, Reach::Public, &format!("http://{name}:{port}")).unwrap_err();
        assert_eq!(failure.error.code(), Code::Privilege, "{:?}", failure.error);
        assert!(failure.error.hint_text().unwrap().contains("superuser"), "{:?}", failure.error);
    }
    assert_eq!(server.connections(), 2);
}
