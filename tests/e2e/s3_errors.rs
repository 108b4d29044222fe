//! Refusals by S3 and the network: S3's own words in the detail, the integration's part in the hint.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::fixture::{Action, Database, Gateway, Integration, Refusal, free_port, refused};

#[track_caller]
fn refuse(db: &Database, uri: &str, integration: &Integration<'_>) -> Refusal {
    db.create(integration);
    let mut client = db.client();
    let refusal = refused(client.query("SELECT s3_export($1, $2, 'SELECT 1 AS a')::text", &[&uri, &integration.name]));
    client.settle();
    assert_eq!(super::fixture::messages(&client.notices()), "", "nothing was written, so nothing may remain");
    refusal
}

#[test]
fn a_bucket_that_is_missing() {
    let db = Database::new("no_bucket");
    refuse(
        &db,
        "s3://no-such-bucket/x",
        &Integration { name: "anywhere", allowed_locations: "{s3://}", ..Integration::local() },
    )
    .sqlstate("42704")
    .message("the bucket does not exist")
    .detail("NoSuchBucket")
    .detail("s3://no-such-bucket/x/")
    .detail("request id ")
    .hint("Create the bucket");
}

#[test]
fn a_wrong_secret() {
    let db = Database::new("wrong_secret");
    let secret = "wrong-secret-of-this-test".to_owned();
    let uri = db.bucket.uri(&db.prefix());
    refuse(&db, &uri, &Integration { name: "wrong", secret_access_key: secret.clone(), ..Integration::local() })
        .sqlstate("28000")
        .message("does not accept the integration's credentials")
        .detail("SignatureDoesNotMatch")
        .hint("set_credentials")
        .hides(&secret)
        .hides("AWS4-HMAC");
    db.bucket.nothing_left(db.bucket.key(&uri));
}

#[test]
fn an_unknown_access_key() {
    let db = Database::new("wrong_key");
    refuse(
        &db,
        &db.bucket.uri(&db.prefix()),
        &Integration { name: "wrong", access_key_id: "NOBODY".into(), ..Integration::local() },
    )
    .sqlstate("28000")
    .detail("InvalidAccessKeyId")
    .hint("access key");
}

#[test]
fn an_endpoint_that_refuses_connections() {
    let db = Database::new("unreachable");
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    refuse(&db, "s3://exports/x", &Integration { name: "gone", endpoint, ..Integration::local() })
        .sqlstate("08001")
        .message("the S3 endpoint cannot be reached")
        .detail("s3://exports/x/")
        .detail("refused")
        .hint("Check endpoint");
}

#[test]
fn an_endpoint_whose_name_does_not_resolve() {
    let db = Database::new("unresolvable");
    refuse(&db, "s3://exports/x", &Integration { name: "gone", endpoint: "http://s3.invalid".into(), ..Integration::local() })
        .sqlstate("08001")
        .message("the S3 endpoint cannot be reached");
}

#[test]
fn an_endpoint_that_is_no_s3() {
    let db = Database::new("no_s3");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let _ = connection.read(&mut [0; 4096]);
            let page = "<html>welcome to this router, password hunter2</html>";
            let _ = write!(connection, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
    });
    refuse(&db, "s3://exports/x", &Integration { name: "router", endpoint, ..Integration::local() })
        .sqlstate("58030")
        .hides("hunter2");
}

#[test]
fn an_error_of_the_upload_reaches_a_query_that_still_runs() {
    let db = Database::new("early_error");
    db.create(&Integration { name: "wrong", secret_access_key: "wrong".into(), ..Integration::local() });
    let query = "SELECT repeat('x', 1000000) AS t, pg_sleep(0.01) IS NULL AS s FROM generate_series(1, 1000000) i";
    let statement = format!("SELECT s3_export('{}', 'wrong', $${query}$$)", db.bucket.uri(&db.prefix()));
    let (_, outcome) = db.client().start(&statement).join();
    refused(outcome).sqlstate("28000");
}

/// The store is slower than the query, so the backend waits for room when the refusal comes.
#[test]
fn an_error_of_the_upload_reaches_a_backend_that_waits_for_room() {
    let db = Database::new("error_while_full");
    let puts = AtomicU32::new(0);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if request.step() != "put" {
            return Action::Forward;
        }
        std::thread::sleep(Duration::from_millis(50));
        match puts.fetch_add(1, Ordering::Relaxed) {
            599 => Action::Answer(
                "HTTP/1.1 403 Forbidden\r\nx-amz-request-id: R7".into(),
                "<Error><Code>AccessDenied</Code><Message>enough</Message></Error>".into(),
            ),
            _ => Action::Answer("HTTP/1.1 200 OK\r\netag: \"1\"".into(), String::new()),
        }
    });
    Integration { name: "slow", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let call =
        db.call(&db.prefix(), "SELECT generate_series(1, 3200) AS a", "output_chunk_size => 1").replace("'local'", "'slow'");
    refused(db.client().batch_execute(&format!("SELECT {call}")))
        .sqlstate("42501")
        .message("could not upload a file: S3 denied access")
        .detail("request id R7")
        .hint("s3:PutObject");
}

/// Files after the first are sent from a template, and not by the SDK; their refusals are told as the first one's.
#[test]
fn a_file_after_the_first_is_refused() {
    let db = Database::new("second_file");
    let xml = "<Error><Code>AccessDenied</Code><Message>enough</Message></Error>";
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if request.step() == "put" && !request.head.contains("-000001.json") {
            Action::Answer("HTTP/1.1 403 Forbidden\r\nx-amz-request-id: R7".into(), xml.into())
        } else {
            Action::Forward
        }
    });
    Integration { name: "refusing", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let mut client = db.client();
    let prefix = db.prefix();
    let call = db.call(&prefix, "SELECT generate_series(1, 3) AS a", "output_chunk_size => 1").replace("'local'", "'refusing'");
    refused(db.exported(&mut client, &call, &prefix))
        .sqlstate("42501")
        .message("could not upload a file: S3 denied access")
        .detail("AccessDenied (enough)")
        .detail("request id R7")
        .hint("s3:PutObject");
    db.bucket.nothing_left(&prefix);
}
