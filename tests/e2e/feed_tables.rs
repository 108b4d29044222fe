//! Feeds over tables of every shape, and rows that come in unusual ways.

use std::time::Duration;

use super::feeds::{BY_XID, create, run, table};
use super::fixture::{Action, Database, Gateway, Integration, Session, literal, refused, wait_for};

const NOTHING: [i64; 0] = [];

/// `create_feed` by `xid` or `sequence` over a table.
fn create_over(db: &Database, table: &str, mark: &str) -> String {
    let (column, condition) = if mark == "xid" { ("changed_in", BY_XID) } else { ("id", "id > $1 AND id <= $2") };
    let (uri, query) = (db.bucket.uri(&db.prefix()), literal(&format!("SELECT a FROM {table} WHERE {condition}")));
    format!(
        "SELECT s3_export.create_feed('{table}_{mark}', '{uri}', 'local', {query}, '{mark}', '{table}.{column}', wrap_types => false, wait => '300ms')"
    )
}

fn set_up(client: &mut Session, table: &str) {
    let statements = client.text(&format!("SELECT s3_export.feed_setup('{table}.changed_in')"));
    client.batch_execute(&statements).unwrap();
}

#[test]
fn partitions_and_children_are_followed_or_refused() {
    let db = Database::new("feed_partitions");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE p (id bigserial NOT NULL, a int NOT NULL) PARTITION BY LIST (a);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2, 3); CREATE TABLE p2 PARTITION OF p DEFAULT PARTITION BY LIST (a);
             CREATE TABLE p3 PARTITION OF p2 DEFAULT;
             CREATE TABLE q (id bigserial NOT NULL, a int NOT NULL)",
        )
        .unwrap();
    set_up(&mut client, "p");
    set_up(&mut client, "q");
    for table in ["p", "q"] {
        for mark in ["xid", "sequence"] {
            client.batch_execute(&create_over(&db, table, mark)).unwrap();
        }
    }
    client
        .batch_execute("INSERT INTO p (a) VALUES (1), (9); INSERT INTO p1 (a) VALUES (2); INSERT INTO p3 (a) VALUES (8)")
        .unwrap();
    assert_eq!(run(&db, &mut client, "p_xid"), [1, 2, 8, 9]);
    assert_eq!(run(&db, &mut client, "p_sequence"), [1, 2, 8, 9]);
    // A row that an update moves to another partition is a new version.
    client.batch_execute("UPDATE p SET a = 7 WHERE a = 1; UPDATE p1 SET a = 3 WHERE a = 2").unwrap();
    assert_eq!(run(&db, &mut client, "p_xid"), [3, 7]);
    assert_eq!(run(&db, &mut client, "p_sequence"), NOTHING);
    // Whoever writes the leaf alone is waited for too.
    let mut late = db.client();
    late.batch_execute("BEGIN; INSERT INTO p3 (a) VALUES (10)").unwrap();
    refused(client.query("SELECT s3_export.run_feed('p_sequence')", &[])).sqlstate("55P03");
    late.batch_execute("COMMIT").unwrap();
    assert_eq!(run(&db, &mut client, "p_sequence"), [10]);
    assert_eq!(run(&db, &mut client, "p_xid"), [10]);

    // A leaf whose trigger is off, and one that gets its values elsewhere.
    client.batch_execute("ALTER TABLE p3 DISABLE TRIGGER USER").unwrap();
    refused(client.query("SELECT s3_export.run_feed('p_xid')", &[])).sqlstate("55000").message("p3").message("no trigger");
    client
        .batch_execute(
            "ALTER TABLE p3 ENABLE TRIGGER USER; CREATE SEQUENCE own; ALTER TABLE p3 ALTER id SET DEFAULT nextval('own')",
        )
        .unwrap();
    refused(client.query("SELECT s3_export.run_feed('p_sequence')", &[])).sqlstate("55000").message("p3");
    client.batch_execute("ALTER TABLE p3 ALTER id SET DEFAULT nextval('p_id_seq')").unwrap();
    assert_eq!(run(&db, &mut client, "p_sequence"), NOTHING);

    // A child that inherits has the default, and no trigger.
    client.batch_execute("CREATE TABLE q1 () INHERITS (q)").unwrap();
    client.batch_execute("INSERT INTO q (a) VALUES (1); INSERT INTO q1 (a) VALUES (2)").unwrap();
    assert_eq!(run(&db, &mut client, "q_sequence"), [1, 2]);
    refused(client.query("SELECT s3_export.run_feed('q_xid')", &[])).sqlstate("55000").message("q1").message("no trigger");
    client
        .batch_execute("CREATE TRIGGER t BEFORE INSERT OR UPDATE ON q1 FOR EACH ROW EXECUTE FUNCTION set_q_changed_in()")
        .unwrap();
    assert_eq!(run(&db, &mut client, "q_xid"), [1, 2]);
    client.batch_execute("UPDATE q SET a = 4 WHERE a = 2").unwrap();
    assert_eq!(run(&db, &mut client, "q_xid"), [4]);
}

#[test]
fn rows_that_come_by_copy_truncate_upsert_and_merge_are_exported_once() {
    let db = Database::new("feed_ways");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    for mark in ["xid", "sequence", "time"] {
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, ", lag => '0'")).unwrap();
    }
    client.batch_execute("COPY orders (a) FROM PROGRAM 'seq 1 3'").unwrap();
    for mark in ["xid", "sequence", "time"] {
        assert_eq!(run(&db, &mut client, mark), [1, 2, 3], "{mark}");
    }
    client
        .batch_execute(
            "INSERT INTO orders (id, a) OVERRIDING SYSTEM VALUE VALUES (1, 10) ON CONFLICT (id) DO UPDATE SET a = excluded.a;
             MERGE INTO orders AS o USING (VALUES (2, 20), (9, 90)) AS n (id, a) ON o.id = n.id
                 WHEN MATCHED THEN UPDATE SET a = n.a WHEN NOT MATCHED THEN INSERT (a) VALUES (n.a)",
        )
        .unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [10, 20, 90]);
    assert_eq!(run(&db, &mut client, "sequence"), [90]);
    assert_eq!(run(&db, &mut client, "time"), [90]);
    client.batch_execute("BEGIN; TRUNCATE orders; INSERT INTO orders (a) VALUES (5); COMMIT").unwrap();
    for mark in ["xid", "sequence", "time"] {
        assert_eq!(run(&db, &mut client, mark), [5], "{mark}");
    }
    // A sequence that begins anew is behind the mark.
    client.batch_execute("TRUNCATE orders RESTART IDENTITY; INSERT INTO orders (a) VALUES (6)").unwrap();
    refused(client.query("SELECT s3_export.run_feed('sequence')", &[])).sqlstate("55000").message("ahead of the database");
    client.batch_execute("SELECT s3_export.rewind_feed('sequence', 'start')").unwrap();
    for mark in ["xid", "sequence", "time"] {
        assert_eq!(run(&db, &mut client, mark), [6], "{mark}");
    }
}

#[test]
fn maintenance_of_the_table_holds_up_no_feed() {
    let db = Database::new("feed_vacuum");
    let (mut client, mut other) = (db.client(), db.client());
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "sequence", ", wait => '300ms'")).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    other.batch_execute("BEGIN; LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE").unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), [1]);
    // Whoever has the table alone may have written it.
    other.batch_execute("COMMIT; BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").unwrap();
    refused(client.query("SELECT s3_export.run_feed('sequence')", &[])).sqlstate("55P03");
    other.batch_execute("COMMIT").unwrap();

    // A writer that is waited for may go on to lock the table alone.
    client.batch_execute(r#"SELECT s3_export.alter_feed('sequence', '{"wait": "5min"}')"#).unwrap();
    other.batch_execute("BEGIN; INSERT INTO orders (a) VALUES (2)").unwrap();
    let waiting = db.client().start("SELECT s3_export.run_feed('sequence')");
    wait_for("the wait", || client.sees_waiting(waiting.pid).then_some(()));
    other.start("TRUNCATE orders; COMMIT").join_within(Duration::from_secs(60)).1.unwrap();
    waiting.join().1.unwrap();

    // A sequence that has given nothing yet is not behind a mark below its values.
    client.batch_execute("TRUNCATE orders RESTART IDENTITY; SELECT s3_export.rewind_feed('sequence', '0')").unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), NOTHING);
    client.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), [3]);
}

/// A walsender of a database runs statements as any session does, and does not show when its transaction began.
#[test]
fn a_walsender_that_writes_holds_up_a_feed_by_time() {
    let db = Database::new("feed_walsender");
    let mut client = db.client();
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "time", ", lag => '0'")).unwrap();
    let mut psql = db.environment().program("psql");
    psql.args([
        "-X",
        "-q",
        "-c",
        "BEGIN",
        "-c",
        "INSERT INTO orders (a) VALUES (1)",
        "-c",
        "SELECT pg_sleep(3)",
        "-c",
        "COMMIT",
    ]);
    psql.arg(format!("dbname={} replication=database", db.name));
    let mut psql = psql.spawn().unwrap();
    wait_for("the walsender", || {
        let shown = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep(3)' AND pid <> pg_backend_pid()",
            db.name
        );
        (client.text(&shown) == "1").then_some(())
    });
    client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
    let early = run(&db, &mut client, "time");
    assert!(psql.wait().unwrap().success());
    let late = run(&db, &mut client, "time");
    assert_eq!((early, late), (NOTHING.to_vec(), vec![1, 2]));
}

#[test]
fn a_parallel_query_sees_the_snapshot_of_the_bound() {
    let db = Database::new("feed_parallel");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    let force = if db.major() >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
    client
        .batch_execute(&format!(
            "SET {force} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0"
        ))
        .unwrap();
    for mark in ["xid", "sequence", "time"] {
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, ", lag => '0'")).unwrap();
    }
    let mut late = db.client();
    for round in 0..5 {
        late.batch_execute(&format!("BEGIN; INSERT INTO orders (a) VALUES ({round})")).unwrap();
        assert_eq!(run(&db, &mut client, "xid"), NOTHING);
        late.batch_execute("COMMIT").unwrap();
        for mark in ["xid", "sequence", "time"] {
            assert_eq!(run(&db, &mut client, mark), [round], "{mark}");
        }
    }
}

#[test]
fn a_job_of_a_caller_with_another_isolation_level_runs_as_a_feed_must() {
    let db = Database::new("feed_isolation");
    let mut client = db.client();
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "xid", "")).unwrap();
    for (level, value) in [("repeatable read", 1), ("serializable", 2)] {
        client.batch_execute(&format!("SET default_transaction_isolation = 'read committed'; INSERT INTO orders (a) VALUES ({value}); SET default_transaction_isolation = '{level}'")).unwrap();
        let id = client.text("SELECT s3_export.run_feed_async('xid')");
        let row = client.query_one(&format!("SELECT status, documents FROM s3_export.wait('{id}')"), &[]).unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("COMPLETED", 1), "{level}");
    }
}

/// The transactions of one message all have its time, and between two of them the session shows none.
#[test]
fn a_transaction_of_a_long_message_is_not_missed_by_time() {
    let db = Database::new("feed_message");
    let mut client = db.client();
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "time", ", lag => '0'")).unwrap();
    let mut exported = Vec::new();
    for round in 0..10 {
        let message = format!("{}INSERT INTO orders (a) VALUES ({round})", "BEGIN; COMMIT; ".repeat(20_000));
        let running = db.client().start(&message);
        while !running.is_finished() {
            exported.extend(run(&db, &mut client, "time"));
        }
        running.join().1.unwrap();
        exported.extend(run(&db, &mut client, "time"));
    }
    assert_eq!(exported, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_run_with_nothing_new_asks_for_its_manifest_and_nothing_else() {
    let db = Database::new("feed_requests");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "watched", endpoint: gateway.endpoint(), ..Integration::local() });
    for mark in ["xid", "sequence", "time"] {
        let call = create(&db, &format!("{prefix}/{mark}"), mark, "").replace("'local'", "'watched'");
        client.batch_execute(&call).unwrap();
        run(&db, &mut client, mark);
        let before = gateway.requests().len();
        assert_eq!(run(&db, &mut client, mark), NOTHING, "{mark}");
        let requests: Vec<String> =
            gateway.requests()[before..].iter().map(|request| request.head.lines().next().unwrap().to_owned()).collect();
        assert!(requests.last().unwrap().contains(&format!("/_{mark}-0000000001.manifest")), "{requests:?}");
        assert!(requests.iter().all(|request| request.starts_with("GET") || request.starts_with("HEAD")), "{requests:?}");
        assert!(requests.len() <= 2, "{mark}: {requests:?}");
    }
}
