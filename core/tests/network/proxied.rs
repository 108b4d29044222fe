//! What goes through a proxy, and what does not.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnector, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use s3_export_core::s3::network::{Network, Proxy, Reach, Trust};

use super::connect_proxy::{ConnectProxy, Manner};
use super::servers::{Names, Server, ask, block_on, network, proxy};

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("s3_export-network-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_request_goes_by_name_through_a_tunnel_and_never_straight() {
    let (server, trap) = (Server::start(), Server::start());
    let asked = ConnectProxy::start(Manner::To(server.address));
    let network = network(Names(Some(trap.address.ip())), proxy(&asked.url(), ""));
    for endpoint in ["http://store.example", &format!("http://store.example:{}", trap.address.port())] {
        ask(&network, Reach::Private, endpoint).unwrap();
    }
    let expected = ["store.example:80".to_owned(), format!("store.example:{}", trap.address.port())];
    assert_eq!(asked.targets(), expected);
    assert_eq!((server.connections(), trap.connections()), (2, 0));
    let head = &asked.heads()[0];
    assert_eq!(head, "CONNECT store.example:80 HTTP/1.1\r\nHost: store.example:80\r\n\r\n");
}

#[test]
fn tls_runs_inside_the_tunnel_by_the_usual_trust() {
    let (server, certificate) = Server::over_tls("store.example");
    let asked = ConnectProxy::start(Manner::To(server.address));
    let untrusted = network(Names(None), proxy(&asked.url(), ""));
    let failure = ask(&untrusted, Reach::Private, "https://store.example").unwrap_err();
    assert!(failure.error.message().contains("certificate is not trusted"), "{:?}", failure.error);
    let path = file("ca.pem", &certificate);
    for trust in [Trust::load(Some(&path), &[]).unwrap(), Trust::load(None, std::slice::from_ref(&path)).unwrap()] {
        let trusted = Network::with_names(trust, Names(None)).through(proxy(&asked.url(), "")).unwrap();
        ask(&trusted, Reach::Private, "https://store.example").unwrap();
        // The name is the endpoint's, whoever the proxy led to.
        let failure = ask(&trusted, Reach::Private, "https://other.example").unwrap_err();
        assert!(failure.error.detail_text().unwrap().contains("not valid for name"), "{:?}", failure.error);
    }
    std::fs::remove_file(path).unwrap();
    assert_eq!(asked.targets()[0], "store.example:443");
}

#[test]
fn exceptions_go_straight_and_are_checked_as_ever() {
    let server = Server::start();
    let port = server.address.port();
    let asked = ConnectProxy::start(Manner::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()));
    let network = network(Names(Some(server.address.ip())), proxy(&asked.url(), "store.example,.inside.example,127.0.0.0/8"));
    for host in ["store.example", "a.inside.example", "127.0.0.1"] {
        ask(&network, Reach::Private, &format!("http://{host}:{port}")).unwrap();
        let failure = ask(&network, Reach::Public, &format!("http://{host}:{port}")).unwrap_err();
        assert!(failure.error.message().contains("private network"), "{:?}", failure.error);
    }
    assert_eq!((server.connections(), asked.heads().len()), (3, 0));
    ask(&network, Reach::Private, &format!("http://other.example:{port}")).unwrap_err();
    assert_eq!((server.connections(), asked.heads().len()), (3, 1));
}

#[test]
fn user_and_password_are_sent_to_the_proxy_alone() {
    let server = Server::start();
    let asked = ConnectProxy::start(Manner::To(server.address));
    let path = file("user", "user:pass\n");
    let named = Proxy::new(&asked.url(), Some(&path), "").unwrap();
    std::fs::remove_file(path).unwrap();
    ask(&network(Names(None), Some(named)), Reach::Private, "http://store.example").unwrap();
    let heads = asked.heads();
    assert!(heads.len() == 1 && heads[0].contains("\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n"), "{heads:?}");
}

/// Where the server gets its own credentials: STS and SSO are far away, a metadata service is not.
#[test]
fn the_servers_own_surroundings_are_asked_straight_and_the_rest_of_its_chain_is_not() {
    let server = Server::start();
    let port = server.address.port();
    let asked = ConnectProxy::start(Manner::To(server.address));
    let network = network(Names(Some(server.address.ip())), proxy(&asked.url(), ""));
    let get = |url: String| {
        let components = RuntimeComponentsBuilder::for_tests().build().unwrap();
        let connector = network.unchecked().http_connector(&HttpConnectorSettings::builder().build(), &components);
        block_on(connector.call(HttpRequest::get(url).unwrap())).unwrap()
    };
    get(format!("http://127.0.0.1:{port}/credentials"));
    get(format!("http://localhost:{port}/credentials"));
    assert_eq!((server.connections(), asked.heads().len()), (2, 0));
    get("http://sts.example/".to_owned());
    get("http://10.1.2.3/".to_owned());
    assert_eq!(asked.targets(), ["sts.example:80", "10.1.2.3:80"]);
}

/// Without a proxy, each request takes one connection, and with one, one tunnel.
#[test]
fn a_proxy_costs_no_connection_more() {
    let server = Server::start();
    let asked = ConnectProxy::start(Manner::To(server.address));
    let straight = network(Names(Some(server.address.ip())), None);
    ask(&straight, Reach::Private, &format!("http://a.example:{}", server.address.port())).unwrap();
    assert_eq!(server.connections(), 1);
    let proxied = network(Names(None), proxy(&asked.url(), ""));
    ask(&proxied, Reach::Private, "http://a.example").unwrap();
    assert_eq!((server.connections(), asked.heads().len()), (2, 1));
}
