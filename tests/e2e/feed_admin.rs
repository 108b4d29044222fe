//! Feeds: what their functions refuse, and how changes and cancels meet a run.

use super::feeds::{BY_XID, create, run, table};
use super::fixture::{Database, Session, literal, refused, wait_for};

const NOTHING: [i64; 0] = [];

/// A call of `create_feed` with these arguments in place of good ones.
pub fn creating(db: &Database, changes: &[(&str, &str)], more: &str) -> String {
    let uri = literal(&db.bucket.uri(&db.name));
    let query = literal(&format!("SELECT a FROM orders WHERE {BY_XID}"));
    let good = [
        ("name", "'f'"),
        ("uri", uri.as_str()),
        ("integration", "'local'"),
        ("query", query.as_str()),
        ("mark", "'xid'"),
        ("mark_column", "'orders.changed_in'"),
    ];
    let arguments: Vec<String> = good
        .iter()
        .map(|(name, value)| {
            let value = changes.iter().find(|(changed, _)| changed == name).map_or(*value, |(_, value)| value);
            format!("{name} => {value}")
        })
        .collect();
    format!("SELECT s3_export.create_feed({}{more})", arguments.join(", "))
}

#[test]
fn what_makes_no_feed_is_refused_with_its_reason() {
    let db = Database::new("feed_refused");
    let mut client = db.client();
    table(&mut client, "orders");
    client
        .batch_execute(
            "CREATE VIEW seen AS TABLE orders; CREATE SEQUENCE cached CACHE 20; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE round CYCLE; CREATE SEQUENCE plain;
             CREATE TABLE bare (id int PRIMARY KEY, maybe timestamptz DEFAULT now(), x xid8 NOT NULL, no_trigger xid8 NOT NULL DEFAULT pg_current_xact_id(),
                 t text NOT NULL DEFAULT '', stale timestamptz NOT NULL DEFAULT '2020-01-01', by_cached bigint NOT NULL DEFAULT nextval('cached'),
                 by_down bigint NOT NULL DEFAULT nextval('down'), by_round bigint NOT NULL DEFAULT nextval('round'),
                 backwards bigint NOT NULL DEFAULT 1000 - nextval('plain'));
             CREATE TEMP TABLE passing (id bigint GENERATED ALWAYS AS IDENTITY, written timestamptz NOT NULL DEFAULT now());
             CREATE UNLOGGED TABLE unlogged (id bigint GENERATED ALWAYS AS IDENTITY)",
        )
        .unwrap();
    let by_sequence = |column: &str| {
        creating(
            &db,
            &[("mark", "'sequence'"), ("mark_column", &literal(column)), ("query", "'SELECT 1 AS a WHERE 2 > $1 AND 1 < $2'")],
            "",
        )
    };
    let by_time = |column: &str| {
        creating(
            &db,
            &[
                ("mark", "'time'"),
                ("mark_column", &literal(column)),
                ("query", "'SELECT 1 AS a WHERE now() > $1 AND now() < $2'"),
            ],
            "",
        )
    };
    let with = |name: &str, value: &str| creating(&db, &[(name, value)], "");
    let more = |more: &str| creating(&db, &[], more);
    let mut cases = vec![
        (with("name", "''"), "22023", "invalid name"),
        (with("name", "'a/b'"), "22023", "invalid name"),
        (with("name", "repeat('x', 64)"), "22023", "invalid name"),
        (with("uri", "'s3://elsewhere/x'"), "42501", ""),
        (with("uri", "'exports'"), "22023", ""),
        (with("integration", "'none'"), "42704", "none"),
        (with("query", "'SELEC 1'"), "42601", "SELEC"),
        (with("query", "'DELETE FROM orders'"), "0A000", "only read"),
        (with("query", "'SELECT 1 AS a'"), "22023", "must use $1"),
        (with("query", "'SELECT 1 AS a WHERE $1 IS NULL AND $2 IS NULL'"), "42P02", "$2"),
        (with("query", "'SELECT 1 AS a FROM nowhere WHERE $1 IS NULL'"), "42P01", "nowhere"),
        (with("mark", "'lsn'"), "22023", "lsn"),
        (with("mark_column", "'changed_in'"), "22023", "must be table.column"),
        (with("mark_column", "''"), "22023", ""),
        (with("mark_column", "'orders.'"), "22023", ""),
        (with("mark_column", "'a.b.c.d.e'"), "", ""),
        (with("mark_column", "'nowhere.changed_in'"), "42704", "does not exist"),
        (with("mark_column", "'orders.nothing'"), "42703", "does not exist"),
        (with("mark_column", "'orders.ctid'"), "42703", "does not exist"),
        (with("mark_column", "'seen.changed_in'"), "42804", "is no table"),
        (with("mark_column", "'orders.a'"), "42804", "needs xid8"),
        (with("mark_column", "'bare.x'"), "55000", "default"),
        (with("mark_column", "'bare.no_trigger'"), "55000", "no trigger"),
        (by_time("bare.maybe"), "55000", "may be NULL"),
        (by_time("bare.t"), "42804", "needs timestamp"),
        (by_time("bare.stale"), "55000", "default now()"),
        (by_time("passing.written"), "42804", "temporary"),
        (by_sequence("passing.id"), "42804", "temporary"),
        (by_sequence("unlogged.id"), "55000", "cannot be followed"),
        (by_sequence("bare.id"), "55000", "fed by no sequence"),
        (by_sequence("bare.by_cached"), "55000", "cannot be followed"),
        (by_sequence("bare.by_down"), "55000", "cannot be followed"),
        (by_sequence("bare.by_round"), "55000", "cannot be followed"),
        (by_sequence("bare.backwards"), "55000", "another default"),
        (more(", start => 'nonsense'"), "22023", "invalid mark"),
        (more(", start => '5:1:'"), "22023", "invalid mark"),
        (more(", lag => '-1s'"), "22023", "negative"),
        (more(", wait => '-1s'"), "22023", "negative"),
        (more(", lag => '500000 years'"), "22023", "lag"),
        (more(", wait => '500000 years'"), "22023", "wait"),
        (more(", manifest_when_empty => NULL"), "22004", ""),
        (more(", format => 'xml'"), "22023", ""),
        (more(r#", options => '{"run_key": "k"}'"#), "22023", "run_key"),
        (more(r#", options => '{"existing": "error"}'"#), "22023", "existing"),
        (more(r#", options => '{"manifest_name": "m"}'"#), "22023", "no names of its own"),
        (more(r#", options => '{"success_marker": "s"}'"#), "22023", "no names of its own"),
        (more(r#", options => '{"nonsense": 1}'"#), "22023", "nonsense"),
    ];
    for name in ["name", "uri", "integration", "query", "mark", "mark_column"] {
        cases.push((with(name, "NULL"), "22004", name));
    }
    for (call, sqlstate, message) in &cases {
        let outcome = client.query(call, &[]);
        assert!(outcome.is_err(), "{call}");
        let error = refused(outcome).0;
        assert!(sqlstate.is_empty() || error.code().code() == *sqlstate, "{call}: {error:#?}");
        assert_ne!(error.code().code(), "XX000", "{call}: {error:#?}");
        assert!(error.message().contains(message), "{call}: {error:#?}");
    }
    assert_eq!(client.text("SELECT count(*) FROM s3_export.feed_definitions"), "0");
    db.bucket.nothing_left(&db.name);

    client.batch_execute(&more("")).unwrap();
    refused(client.query(&more(""), &[])).sqlstate("42710");
    let before = client.text("SELECT f::text FROM s3_export.feed_definitions AS f");
    for (call, sqlstate, message) in [
        ("alter_feed('none', '{}')", "42704", "none"),
        ("alter_feed(NULL, '{}')", "22004", "name"),
        ("alter_feed('f', NULL)", "22004", "changes"),
        ("alter_feed('f', '[]')", "22023", "changes"),
        (r#"alter_feed('f', '{"mark": "time"}')"#, "22023", "mark"),
        (r#"alter_feed('f', '{"name": "g"}')"#, "22023", "name"),
        (r#"alter_feed('f', '{"role": "g"}')"#, "22023", "role"),
        (r#"alter_feed('f', '{"query": 1}')"#, "22023", "query"),
        (r#"alter_feed('f', '{"query": null}')"#, "22023", "query"),
        (r#"alter_feed('f', '{"query": "SELECT 1 AS a"}')"#, "22023", "must use $1"),
        (r#"alter_feed('f', '{"uri": "s3://elsewhere/x"}')"#, "42501", ""),
        (r#"alter_feed('f', '{"integration": "none"}')"#, "42704", "none"),
        (r#"alter_feed('f', '{"lag": 5}')"#, "22023", "lag"),
        (r#"alter_feed('f', '{"lag": "-5s"}')"#, "22023", "lag"),
        (r#"alter_feed('f', '{"wait": "soon"}')"#, "22023", "wait"),
        (r#"alter_feed('f', '{"manifest_when_empty": "yes"}')"#, "22023", "manifest_when_empty"),
        (r#"alter_feed('f', '{"output_chunk_size": "many"}')"#, "22023", "output_chunk_size"),
        (r#"alter_feed('f', '{"output_chunk_size": 3000000000}')"#, "22023", "output_chunk_size"),
        (r#"alter_feed('f', '{"partition_by": "a"}')"#, "22023", "partition_by"),
        (r#"alter_feed('f', '{"options": {"run_key": "k"}}')"#, "22023", "run_key"),
        (r#"alter_feed('f', '{"mark_column": "orders.a"}')"#, "42804", ""),
        ("drop_feed('none')", "42704", "none"),
        ("drop_feed(NULL)", "22004", "name"),
        ("run_feed('none')", "42704", "none"),
        ("run_feed(NULL)", "22004", "name"),
        ("run_feed_async('none')", "42704", "none"),
        ("run_feed_async(NULL)", "22004", "name"),
        ("rewind_feed('none', 'start')", "42704", "none"),
        ("rewind_feed(NULL, 'start')", "22004", "name"),
        ("rewind_feed('f', NULL)", "22004", "to"),
        ("rewind_feed('f', 'nonsense')", "22023", "invalid mark"),
        ("rewind_feed('f', '2020-01-01')", "22023", "invalid mark"),
        ("rewind_feed('f', 'start', 0)", "22023", "next_run"),
        ("rewind_feed('f', 'start', -5)", "22023", "next_run"),
        ("rewind_feed('f', 'start', 10000000000)", "22023", "next_run"),
        ("feed_setup(NULL)", "22004", "mark_column"),
        ("feed_setup('orders.b', NULL)", "22004", "mark"),
        ("feed_setup('orders.b', 'lsn')", "22023", "lsn"),
        ("feed_setup('b')", "22023", "must be table.column"),
    ] {
        let error = refused(client.query(&format!("SELECT s3_export.{call}"), &[])).0;
        assert_eq!(error.code().code(), sqlstate, "{call}: {error:#?}");
        assert!(error.message().contains(message), "{call}: {error:#?}");
    }
    assert_eq!(client.text("SELECT f::text FROM s3_export.feed_definitions AS f"), before);
    for (mark, bad) in [("sequence", "1.5"), ("sequence", "99999999999999999999"), ("time", "nonsense"), ("time", "infinity")] {
        let call = create(&db, &db.name, mark, &format!(", start => '{bad}'"));
        let error = refused(client.query(&call, &[])).0;
        assert!(error.code().code().starts_with("22"), "{mark} {bad}: {error:#?}");
    }
    assert_eq!(client.text("SELECT count(*) FROM s3_export.feeds"), "1");
    db.bucket.nothing_left(&db.name);
}

#[test]
fn names_of_tables_and_columns_are_quoted_as_they_are() {
    let db = Database::new("feed_quoted");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute(r#"CREATE SCHEMA "My ""S""."; CREATE TABLE "My ""S""."."T.'x" (a int NOT NULL)"#).unwrap();
    for mark in ["xid", "sequence", "time"] {
        let quoted = format!(r#""{mark} ""c.""#);
        let column = literal(&format!(r#""My ""S""."."T.'x".{quoted}"#));
        let statements = client.text(&format!("SELECT s3_export.feed_setup({column}, '{mark}')"));
        client.batch_execute(&statements).unwrap();
        let condition = match mark {
            "xid" => BY_XID.replace("changed_in", &quoted),
            "sequence" => format!("{quoted} > $1 AND {quoted} <= $2"),
            _ => format!("{quoted} >= $1 AND {quoted} < $2"),
        };
        let query = literal(&format!(r#"SELECT a FROM "My ""S""."."T.'x" WHERE {condition}"#));
        client
            .batch_execute(&format!(
                "SELECT s3_export.create_feed('{mark}', '{}', 'local', {query}, '{mark}', {column}, lag => '0', wrap_types => false)",
                db.bucket.uri(&prefix)
            ))
            .unwrap();
    }
    client.batch_execute(r#"INSERT INTO "My ""S""."."T.'x" VALUES (1)"#).unwrap();
    for mark in ["xid", "sequence", "time"] {
        assert_eq!(run(&db, &mut client, mark), [1], "{mark}");
    }
}

#[test]
fn changes_and_cancels_meet_a_run_that_is_under_way() {
    let db = Database::new("feed_meet");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    for mark in ["xid", "sequence", "time"] {
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, ", lag => '0'")).unwrap();
    }
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    client.batch_execute("BEGIN; SELECT s3_export.run_feed('xid')").unwrap();
    let waits = |client: &mut Session, pid: i32| {
        wait_for("a lock that is waited for", || {
            (client.text(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted")) == "1").then_some(())
        });
    };
    let waiting: Vec<_> = [
        r#"SELECT s3_export.alter_feed('xid', '{"lag": "1s"}')"#,
        "SELECT s3_export.rewind_feed('xid', 'start', 5)",
        "SELECT s3_export.run_feed('xid')",
        "SELECT s3_export.run_feed('xid')",
    ]
    .into_iter()
    .map(|statement| db.client().start(statement))
    .collect();
    for running in &waiting {
        waits(&mut client, running.pid);
    }
    let [altering, rewinding, cancelled, terminated] = <[_; 4]>::try_from(waiting).ok().unwrap();
    client
        .batch_execute(&format!("SELECT pg_cancel_backend({}), pg_terminate_backend({})", cancelled.pid, terminated.pid))
        .unwrap();
    refused(cancelled.join().1).sqlstate("57014");
    assert!(terminated.join().1.is_err());
    client.batch_execute("COMMIT").unwrap();
    altering.join().1.unwrap();
    rewinding.join().1.unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [1]);
    assert!(db.bucket.manifests(&prefix).contains(&format!("{prefix}/xid/_xid-0000000005.manifest")));

    // Writers are waited for where interrupts are answered.
    let mut late = db.client();
    late.batch_execute("BEGIN; INSERT INTO orders (a) VALUES (2)").unwrap();
    let waiting = db.client().start("SELECT s3_export.run_feed('sequence')");
    let event = if db.major() >= 17 { "S3ExportWriters" } else { "Extension" };
    wait_for("the wait event", || {
        let shown = format!("SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = {}", waiting.pid);
        (client.text(&shown) == event).then_some(())
    });
    client.batch_execute(&format!("SELECT pg_cancel_backend({})", waiting.pid)).unwrap();
    refused(waiting.join().1).sqlstate("57014");

    // A writer that prepares its transaction meanwhile is waited for still.
    let waiting = db.client().start("SELECT s3_export.run_feed('sequence')");
    wait_for("the wait", || client.sees_waiting(waiting.pid).then_some(()));
    late.batch_execute(&format!("PREPARE TRANSACTION '{}'", db.name)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!waiting.is_finished());
    late.batch_execute(&format!("COMMIT PREPARED '{}'", db.name)).unwrap();
    waiting.join().1.unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), NOTHING);

    // Savepoints, and feeds side by side in one transaction.
    client.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    client
        .batch_execute("BEGIN; SAVEPOINT a; SELECT s3_export.run_feed('sequence'); ROLLBACK TO a; SELECT s3_export.run_feed('sequence'); SELECT s3_export.run_feed('time')")
        .unwrap();
    client.batch_execute("SAVEPOINT b").unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("25001");
    client.batch_execute("ROLLBACK TO b").unwrap();
    refused(client.query("SELECT s3_export.run_feed('sequence')", &[])).sqlstate("25001");
    client.batch_execute("ROLLBACK TO b; COMMIT").unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), NOTHING);
    assert_eq!(run(&db, &mut client, "time"), NOTHING);
    assert_eq!(run(&db, &mut client, "xid"), [2, 3]);
}
