//! Cancel, terminate and timeouts while S3 or a file server hangs: the backend answers, and the clean-up ends in its time.

use std::time::Duration;

use super::cancel::{ANSWERS, send, wait_for_exit};
use super::fixture::{
    Action, Cluster, Database, Gateway, Integration, Proxy, Running, Session, hung_endpoint, refused, threads,
    unreachable_endpoint, wait_for,
};

/// An export whose uploads never get an answer.
fn hung(db: &Database, cleanup_timeout: &str, query: &str) -> Running {
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute(&format!("SET s3_export.cleanup_timeout = '{cleanup_timeout}'")).unwrap();
    let running = client.start(&format!("SELECT {}", db.call(&db.prefix(), query, "").replace("'local'", "'hung'")));
    let mut witness = db.client();
    // It waits for credentials too, before anything is sent.
    let waits = |witness: &mut Session| !gateway.requests().is_empty() && witness.sees_waiting(running.pid);
    wait_for("the export to wait for S3", || waits(&mut witness).then_some(()));
    running
}

#[test]
fn cancel_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_cancel");
    let running = hung(&db, "0", "SELECT 1 AS a");
    send(&db, "pg_cancel_backend", running.pid);
    let (mut client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    assert_eq!(threads(client.pid), 1);
    let warnings = client.notices();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "58030");
    assert!(warnings[0].message().contains("may remain in S3") && warnings[0].hint().is_some(), "{warnings:?}");
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1, "by another integration");
}

/// Wherever an upload hangs: no connection, no TLS, no policy.
#[test]
fn cancel_is_answered_whatever_an_upload_waits_for() {
    let db = Database::new("hung_everywhere");
    let busy = Gateway::to(&Integration::local().endpoint, |_| {
        Action::Answer("HTTP/1.1 503 Slow Down".into(), "<Error><Code>SlowDown</Code></Error>".into())
    });
    for (name, endpoint) in [
        ("connect", unreachable_endpoint()),
        ("handshake", hung_endpoint().replace("http:", "https:")),
        ("backoff", busy.endpoint()),
    ] {
        db.create(&Integration { name, endpoint, ..Integration::local() });
        for function in ["pg_cancel_backend", "pg_terminate_backend"] {
            let mut client = db.client();
            client.batch_execute("SET s3_export.cleanup_timeout = '100ms'; SET s3_export.request_attempts = 1000").unwrap();
            let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", &format!("'{name}'"));
            let running = client.start(&format!("SELECT {call}"));
            let (pid, mut witness) = (running.pid, db.client());
            wait_for("the export to wait for S3", || witness.sees_waiting(pid).then_some(()));
            send(&db, function, pid);
            let (_session, outcome) = running.join_within(ANSWERS);
            let refusal = refused(outcome);
            if function == "pg_cancel_backend" {
                refusal.sqlstate("57014");
                assert_eq!(threads(pid), 1, "{name}");
            } else {
                refusal.sqlstate("57P01");
                wait_for_exit(pid);
            }
        }
    }
}

#[test]
fn cancel_while_the_buffer_is_full_is_answered() {
    let db = Database::new("hung_full");
    let running = hung(&db, "1s", "SELECT repeat('x', 1000000) AS t FROM generate_series(1, 10000)");
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn terminate_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_terminate");
    let mut witness = db.client();
    let running = hung(&db, "1s", "SELECT 1 AS a");
    let pid = running.pid;
    send(&db, "pg_terminate_backend", pid);
    refused(running.join_within(ANSWERS).1).sqlstate("57P01");
    wait_for_exit(pid);
    assert_eq!(witness.text("SELECT 'still here'"), "still here");
}

#[test]
fn statement_timeout_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_timeout");
    db.create(&Integration { name: "hung", endpoint: hung_endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.cleanup_timeout = 0; SET statement_timeout = '300ms'").unwrap();
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'hung'");
    let (client, outcome) = client.start(&format!("SELECT {call}")).join_within(ANSWERS);
    refused(outcome).sqlstate("57014").message("statement timeout");
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn the_clean_up_of_a_hung_upload_ends_by_itself() {
    let db = Database::new("hung_clean_up");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.cleanup_timeout = '1500ms'").unwrap();
    let call = db.call(&db.prefix(), "SELECT generate_series(1, 5000) AS i", "").replace("'local'", "'hung'");
    let running = client.start(&format!("SELECT {call}"));
    wait_for("all five files to be sent", || (gateway.requests().len() >= 5).then_some(()));
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    let detail = client.notices()[0].detail().unwrap_or_default().to_owned();
    assert!(detail.contains("-000001.json") && detail.contains("and 2 more"), "{detail}");
}

/// Each savepoint took the whole time of a clean-up, with the transaction's locks held.
#[test]
fn a_rollback_of_many_savepoints_takes_the_time_of_one_clean_up() {
    let db = Database::new("clean_up_savepoints");
    let proxy = Proxy::to(&Integration::local().endpoint);
    db.create(&Integration { name: "slow", endpoint: proxy.endpoint(), ..Integration::local() });
    for end in ["ROLLBACK", "ROLLBACK TO s; ROLLBACK", "SELECT pg_terminate_backend(pg_backend_pid())"] {
        let mut client = db.client();
        client.batch_execute("SET s3_export.cleanup_timeout = '1s'; BEGIN; SAVEPOINT s").unwrap();
        for _ in 0..6 {
            let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'slow'");
            client.batch_execute(&format!("SAVEPOINT s; SELECT {call}")).unwrap();
        }
        proxy.hang();
        let start = std::time::Instant::now();
        let (client, outcome) = client.start(end).join();
        assert_eq!(outcome.is_ok(), end.starts_with("ROLLBACK"), "{outcome:?}");
        wait_for("the session to be free", || (threads(client.pid) <= 1).then_some(()));
        assert!(start.elapsed() < Duration::from_secs(4), "{end}: {:?}", start.elapsed());
        proxy.heal();
    }
}

/// DROP DATABASE waits until every backend has closed its files, whatever that backend does.
#[test]
fn a_clean_up_that_hangs_shows_a_wait_event_and_holds_up_no_drop_of_another_database() {
    let db = Database::new("clean_up_barrier");
    let other = Database::empty("clean_up_other", "");
    let proxy = Proxy::to(&Integration::local().endpoint);
    db.create(&Integration { name: "slow", endpoint: proxy.endpoint(), ..Integration::local() });
    let (mut client, mut witness) = (db.client(), db.client());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'; BEGIN").unwrap();
    client
        .batch_execute(&format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'slow'")))
        .unwrap();
    proxy.hang();
    let running = client.start("ROLLBACK");
    wait_for("the clean-up to wait", || witness.sees_hanging(running.pid).then_some(()));
    let start = std::time::Instant::now();
    witness.batch_execute(&format!("DROP DATABASE {}", other.name)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(!running.is_finished(), "the clean-up ended too early for the test to show anything");
    proxy.release();
    running.join().1.unwrap();
}

/// The end of the transaction waited for the read for ever, and passed no barrier meanwhile.
#[test]
fn a_file_server_that_hangs_holds_up_no_session_and_no_drop_of_another_database() {
    let db = Database::new("hung_file");
    let endpoint = Integration::local().endpoint;
    db.client()
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('profile', credential_source => 'profile', options => '{{\"aws_profile\": \"x\"}}',
                 endpoint => '{endpoint}', path_style => true, allowed_locations => '{{s3://exports}}')"
        ))
        .unwrap();
    let fifo = db.environment().run_dir.join(format!("{}.fifo", db.name));
    assert!(std::process::Command::new("mkfifo").args(["-m", "666"]).arg(&fifo).status().unwrap().success());
    let files = [("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", fifo.to_str().unwrap())];
    let cluster = Cluster::copy_in(&files);
    let (mut client, mut witness) = (cluster.session(&db.name, "postgres"), cluster.session(&db.name, "postgres"));
    witness.batch_execute("CREATE DATABASE other").unwrap();
    client.batch_execute("SET statement_timeout = '1s'").unwrap();
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'profile'");
    let running = client.start(&format!("SELECT {call}"));
    std::thread::sleep(Duration::from_secs(3));
    let start = std::time::Instant::now();
    witness.batch_execute("DROP DATABASE other").unwrap();
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(!running.is_finished(), "the read ended too early for the test to show anything");
    // Nobody ever writes into the file; the session is free all the same.
    let (mut client, outcome) = running.join_within(Duration::from_secs(60));
    refused(outcome).sqlstate("57014");
    assert_eq!(client.text("SELECT 1"), "1");
    std::fs::remove_file(&fifo).unwrap();
}
