//! Exports through an HTTP proxy: everything goes through it, what it says is an error that names it, and it is asked for nothing
//! that an integration may not reach.

use std::time::Instant;

use super::cancel::{ANSWERS, send, wait_for_exit};
use super::fixture::{
    Cluster, Database, Integration, ServerFile, Session, StandIn, Tunnel, TunnelProxy, literal, refused, threads, wait_for,
};
use super::roles::{RoleIntegration, export};

/// A name that nobody resolves: only a proxy can lead to it.
const STORE: &str = "http://store.invalid:9000";
const STS: &str = "http://sts.invalid:9000";

/// A session whose requests go through the proxy.
fn through(db: &Database, proxy: &TunnelProxy) -> Session {
    let mut client = db.client();
    client.batch_execute(&format!("SET s3_export.proxy = '{}'", proxy.url())).unwrap();
    client
}

#[test]
fn every_request_to_s3_and_sts_goes_through_the_proxy() {
    let db = Database::new("proxy_all");
    let StandIn { endpoint, .. } = StandIn::ministack();
    let proxy = TunnelProxy::new(move |_| Tunnel::To(endpoint.clone()));
    let (store, sts) = (STORE.to_owned(), Some(STS.to_owned()));
    RoleIntegration { endpoint: store, sts_endpoint: sts, ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let mut client = through(&db, &proxy);
    // Small files, and one in parts.
    assert_eq!(export(&db, &mut client, "SELECT generate_series(1, 2500) AS a").unwrap().documents, 2500);
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    let call = db.call(&db.prefix(), large, "output_chunk_size => 20000").replace("'local'", "'role'");
    client.batch_execute(&format!("SELECT {call}")).unwrap();
    // What a rollback deletes, and what validates.
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK").replace(&db.name, &format!("{}x", db.name))).unwrap();
    let steps = client.query("SELECT step, ok FROM s3_export.validate_integration('role', 's3://exports/proxy')", &[]).unwrap();
    assert!(steps.len() > 5 && steps.iter().all(|step| step.get::<_, bool>(1)), "{steps:?}");
    let targets = proxy.targets();
    for target in ["store.invalid:9000", "sts.invalid:9000"] {
        assert!(targets.iter().any(|asked| asked == target), "{target}: {targets:?}");
    }
    assert!(targets.iter().all(|asked| asked.contains(".invalid:9000")), "{targets:?}");
    // Without the proxy, nobody finds these hosts.
    client.batch_execute("SET s3_export.proxy = ''; SET s3_export.request_attempts = 1").unwrap();
    let before = proxy.heads().len();
    refused(export(&db, &mut client, "SELECT 1 AS a")).sqlstate("08001").message("cannot be reached");
    assert_eq!(proxy.heads().len(), before);
}

#[test]
fn what_the_proxy_refuses_is_an_error_that_names_it_and_repeats_no_page() {
    let db = Database::new("proxy_refusals");
    db.create(&Integration { name: "there", endpoint: STORE.into(), ..Integration::local() });
    for (answer, message, detail, hint) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\nhidden", "refuses the S3 endpoint", "answered 403", "no_proxy"),
        ("HTTP/1.1 407 hidden\r\n\r\n", "asks for other credentials", "answered 407", "proxy_credentials_file"),
        ("HTTP/1.1 502 Bad Gateway\r\nx: hidden\r\n\r\n", "refuses the S3 endpoint", "answered 502", "CONNECT"),
        ("hidden\r\n\r\n", "is no HTTP proxy", "not HTTP", "s3_export.proxy"),
        ("", "gives no connection", "ended the connection", "s3_export.proxy"),
    ] {
        let proxy = TunnelProxy::new(move |_| Tunnel::Say(answer));
        let mut client = through(&db, &proxy);
        client.batch_execute("SET s3_export.request_attempts = 2; SET s3_export.cleanup_timeout = 0").unwrap();
        let refusal = refused(db.export_by(&mut client, "there", "SELECT 1 AS a"));
        refusal.sqlstate("08001").message(message);
        refusal.detail(detail).detail(&proxy.name()).hint(hint).hides("hidden");
        assert_eq!(client.notices().len(), 0, "nothing can be left where nothing was sent");
    }
    let absent = TunnelProxy::new(|_| Tunnel::Hang).url().replace("127.0.0.1", "127.0.0.2");
    let mut client = db.client();
    client.batch_execute(&format!("SET s3_export.proxy = '{absent}'; SET s3_export.request_attempts = 1")).unwrap();
    let refusal = refused(db.export_by(&mut client, "there", "SELECT 1 AS a"));
    refusal.sqlstate("08001");
    refusal.message("gives no connection").detail(absent.trim_start_matches("http://")).detail("cannot be reached");
}

#[test]
fn cancel_while_the_proxy_says_nothing_is_answered() {
    let db = Database::new("proxy_hung");
    db.create(&Integration { name: "there", endpoint: STORE.into(), ..Integration::local() });
    let proxy = TunnelProxy::new(|_| Tunnel::Hang);
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        let (mut client, before) = (through(&db, &proxy), proxy.heads().len());
        // No tunnel has opened, so that nothing can be in the store: a rollback that looked for it would wait for an hour.
        client.batch_execute("SET s3_export.cleanup_timeout = '1h'; SET s3_export.request_attempts = 1000").unwrap();
        let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'there'");
        let running = client.start(&format!("SELECT {call}"));
        let (pid, mut witness) = (running.pid, db.client());
        let waits = |witness: &mut Session| proxy.heads().len() > before && witness.sees_waiting(pid);
        wait_for("the export to wait for the proxy", || waits(&mut witness).then_some(()));
        let start = Instant::now();
        send(&db, function, pid);
        let (_session, outcome) = running.join_within(ANSWERS);
        println!("{function} was answered after {:?}", start.elapsed());
        if function == "pg_cancel_backend" {
            refused(outcome).sqlstate("57014");
            assert_eq!(threads(pid), 1);
        } else {
            refused(outcome).sqlstate("57P01");
            wait_for_exit(pid);
        }
    }
}

#[test]
fn exceptions_go_without_the_proxy() {
    let db = Database::new("proxy_none");
    let proxy = TunnelProxy::new(|_| Tunnel::Say("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let mut client = through(&db, &proxy);
    refused(db.export_in(&mut client, "SELECT 1 AS a", "")).sqlstate("08001").message(&proxy.name());
    let before = proxy.heads().len();
    for list in ["127.0.0.1", "x.example, 127.0.0.0/8"] {
        client.batch_execute(&format!("SET s3_export.no_proxy = '{list}'")).unwrap();
        assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    }
    assert_eq!(proxy.heads().len(), before);
}

/// An administrator's integration reaches through the proxy no more than without it.
#[test]
fn attack_ssrf_through_the_proxy_by_an_administrator() {
    let db = Database::new("proxy_ssrf");
    let inside = Integration::local().endpoint;
    let proxy = TunnelProxy::new(move |_| Tunnel::To(inside.clone()));
    let admin = db.role("admin", &["s3_export_admin", "s3_export_member"]);
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.proxy = '{}'", db.name, proxy.url())).unwrap();
    for (endpoint, sqlstate) in [
        ("https://127.0.0.1", "42501"),
        ("https://10.0.0.1", "42501"),
        ("https://169.254.169.254", "42501"),
        ("https://[::1]:9000", "42501"),
        ("https://[::ffff:169.254.169.254]", "42501"),
        ("https://localhost:9000", "42501"),
        ("https://2852039166", "08001"),
        ("https://127.1", "08001"),
        ("https://inside.invalid", "08001"),
    ] {
        let mut client = db.client_as(&admin);
        client.batch_execute("DELETE FROM s3_export.integrations").unwrap();
        Integration { name: "there", endpoint: endpoint.into(), usage_role: &admin, ..Integration::local() }
            .create(&mut client)
            .unwrap();
        let hint = match endpoint {
            _ if endpoint.contains("169.254") => "No integration may",
            // No certificate can name such a host, so that TLS ends before the way to it is looked for.
            "https://2852039166" | "https://127.1" => "Check endpoint",
            _ => "a superuser owns",
        };
        refused(db.export_by(&mut client, "there", "SELECT 1 AS a")).sqlstate(sqlstate).hint(hint);
    }
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
    let mut client = db.client_as(&admin);
    client.batch_execute("SELECT 1 FROM s3_export.integrations; SELECT s3_export.options()").unwrap();
    for setting in ["proxy", "no_proxy", "proxy_credentials_file", "extra_ca_files"] {
        refused(client.batch_execute(&format!("SET s3_export.{setting} = 'x'"))).sqlstate("42501");
    }
    for setting in ["proxy", "proxy_credentials_file"] {
        refused(client.simple_query(&format!("SHOW s3_export.{setting}"))).sqlstate("42501");
    }
    // A session that has not loaded the library takes any value, and loses it.
    let mut fresh = db.client_as(&admin);
    fresh.batch_execute("SET s3_export.proxy = 'http://127.0.0.1:1'; SELECT s3_export.options()").unwrap();
    refused(fresh.simple_query("SHOW s3_export.proxy")).sqlstate("42501");
}

#[test]
fn settings_of_a_proxy_that_cannot_be_used_are_errors_without_secrets() {
    let db = Database::new("proxy_settings");
    let file = |suffix: &str, text: &str| ServerFile::of(&db, suffix, text);
    let (two, good) = (file("two", "user:hidden\nuser:hidden\n"), file("good", "user:hidden\n"));
    for (setting, value, message) in [
        ("proxy", "https://proxy.example:3128", "s3_export.proxy"),
        ("proxy", "http://user:hidden@proxy.example:3128", "s3_export.proxy"),
        ("proxy", "proxy.example", "s3_export.proxy"),
        ("no_proxy", "a.example,*", "s3_export.no_proxy"),
        ("proxy_credentials_file", "/nowhere/proxy", "/nowhere/proxy"),
        ("proxy_credentials_file", two.path(), two.path()),
    ] {
        let mut client = db.client();
        client.batch_execute("SET s3_export.proxy = 'http://127.0.0.1:1'").unwrap();
        client.batch_execute(&format!("SET s3_export.{setting} = {}", literal(value))).unwrap();
        let refusal = refused(db.export_in(&mut client, "SELECT 1 AS a", ""));
        refusal.sqlstate("F0000").message(message);
        refusal.hides("hidden");
    }
    // The password goes to the proxy, and is shown by nobody.
    let endpoint = Integration::local().endpoint;
    let proxy = TunnelProxy::new(move |_| Tunnel::To(endpoint.clone()));
    let mut client = through(&db, &proxy);
    client.batch_execute(&format!("SET s3_export.proxy_credentials_file = '{}'", good.path())).unwrap();
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    assert!(proxy.heads()[0].contains("Proxy-Authorization: Basic dXNlcjpoaWRkZW4="), "{:?}", proxy.heads());
    let shown = client.text("SELECT string_agg(name || setting, ' ') FROM pg_settings WHERE name LIKE 's3_export.%'");
    assert!(!shown.contains("hidden") && !shown.contains("dXNl"), "{shown}");
}

#[test]
fn variables_of_the_environment_name_no_proxy() {
    let db = Database::new("proxy_environment");
    let proxy = TunnelProxy::new(|_| Tunnel::Say("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let url = proxy.url();
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let standby = Cluster::standby_with(&names.map(|name| (name, url.as_str())));
    let mut client = standby.session(&db.name, "postgres");
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
}

/// Amazon's names, by what the proxy is asked for.
#[test]
fn fips_and_dual_stack_are_columns_of_an_integration() {
    let db = Database::new("fips");
    let proxy = TunnelProxy::new(|_| Tunnel::Say("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let mut client = through(&db, &proxy);
    let create = |name: &str, endpoint: &str, options: &str| {
        format!(
            "SELECT s3_export.create_integration('{name}', access_key_id => 'K', secret_access_key => 'S', region => 'us-east-2',
                 {endpoint} allowed_locations => '{{s3://exports}}', options => '{options}')"
        )
    };
    client.batch_execute(&create("amazon", "", r#"{"fips": true, "dual_stack": true}"#)).unwrap();
    client.batch_execute(&create("plain", "", "{}")).unwrap();
    let flags = "SELECT string_agg(name || fips || dual_stack, ' ' ORDER BY name) FROM s3_export.integrations";
    assert_eq!(client.text(flags), "amazontruetrue localfalsefalse plainfalsefalse");
    for (change, host) in [
        ("fips = true, dual_stack = true", "exports.s3-fips.dualstack.us-east-2.amazonaws.com:443"),
        ("fips = false", "exports.s3.dualstack.us-east-2.amazonaws.com:443"),
        ("fips = true, dual_stack = false", "exports.s3-fips.us-east-2.amazonaws.com:443"),
        ("fips = false", "exports.s3.us-east-2.amazonaws.com:443"),
    ] {
        client.batch_execute(&format!("UPDATE s3_export.integrations SET {change} WHERE name = 'amazon'")).unwrap();
        refused(db.export_by(&mut client, "amazon", "SELECT 1 AS a")).sqlstate("08001");
        assert_eq!(proxy.targets().last().unwrap(), host);
    }
    for flag in ["fips", "dual_stack"] {
        let statement = create("x", "endpoint => 'https://x.example',", &format!(r#"{{"{flag}": true}}"#));
        refused(client.batch_execute(&statement)).sqlstate("22023").message(flag);
        let statement = create("x", "", &format!(r#"{{"{flag}": "yes"}}"#));
        refused(client.batch_execute(&statement)).sqlstate("22023");
        let update = format!("UPDATE s3_export.integrations SET {flag} = true WHERE name = 'local'");
        refused(client.batch_execute(&update)).sqlstate("23514").message(&format!("{flag}_goes_without_an_endpoint"));
    }
    // A role that is named inline.
    let role = "arn:aws:iam::012345678901:role/x";
    let inline =
        format!(r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports"], "region": "us-east-2", "fips": true}}]"#);
    client.batch_execute(&format!("SET s3_export.inline_roles = {}", literal(&inline))).unwrap();
    let call = format!("SELECT s3_export_with_role('s3://exports/x', '{role}', 'external-id', 'SELECT 1 AS a')");
    refused(client.batch_execute(&call)).sqlstate("08001").message("the STS endpoint");
    assert_eq!(proxy.targets().last().unwrap(), "sts-fips.us-east-2.amazonaws.com:443");
}
