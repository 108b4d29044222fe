//! The role that a job runs as, and the roles that see it.

use super::fixture::job::document;
use super::fixture::{Database, Integration, cancel_job, ended, enqueued, literal, messages, refused, status, wait_for_status};

/// Keeps the only worker busy, so that what is enqueued meanwhile stays queued; gives the job to be cancelled.
fn busy(db: &Database) -> String {
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let mut client = db.client();
    let id = enqueued(db, &mut client, &db.prefix(), "SELECT pg_sleep(600)::text AS a", "");
    wait_for_status(&mut client, &id, "RUNNING");
    id
}

#[test]
fn a_job_runs_as_the_role_that_enqueued_it() {
    let db = Database::new("job_role");
    let member = db.role("member", &["s3_export_member"]);
    let query = "SELECT current_user::text AS c, session_user::text AS s, current_setting('is_superuser') AS u";
    let said = document(&db, &mut db.client_as(&member), query);
    assert_eq!(
        (said["c"].as_str().unwrap(), said["s"].as_str().unwrap(), said["u"].as_str().unwrap()),
        (&*member, &*member, "off")
    );

    // The session's own user is not whom the query runs as.
    let group = db.role("group", &["s3_export_member"]);
    let user = db.role("user", &[&group]);
    let mut client = db.client_as(&user);
    client.batch_execute(&format!("SET ROLE {group}")).unwrap();
    let said = document(&db, &mut client, query);
    assert_eq!((said["c"].as_str().unwrap(), said["s"].as_str().unwrap()), (&*group, &*user), "as in the session");
    // A function that is SECURITY DEFINER lends its owner.
    db.client()
        .batch_execute(&format!(
            "CREATE FUNCTION lent(uri text) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                 AS $$ SELECT s3_export_async(uri, 'local', 'SELECT current_user::text AS c, session_user::text AS s') $$;
             ALTER FUNCTION lent OWNER TO {member}; GRANT EXECUTE ON FUNCTION lent TO {user}"
        ))
        .unwrap();
    let prefix = db.prefix();
    let id = db.client_as(&user).text(&format!("SELECT lent({})", literal(&db.bucket.uri(&prefix))));
    ended(&mut db.client_as(&member), &id).unwrap();
    let said = &db.bucket.values(&prefix)[0];
    assert_eq!(
        (said["c"].as_str().unwrap(), said["s"].as_str().unwrap()),
        (&*member, &*user),
        "a filter on session_user holds"
    );
    // The user of the session is gone: there is no session to run it in.
    let running = busy(&db);
    let id = enqueued(&db, &mut client, &db.prefix(), query, "");
    drop(client);
    db.client().batch_execute(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).unwrap();
    cancel_job(&mut db.client(), &running);
    refused(ended(&mut db.client(), &id)).sqlstate("42704").message("the user whose session");
}

/// Before Postgres 17 no worker can be connected as such a role; it is connected as the superuser and becomes the role.
#[test]
fn a_job_of_a_role_that_may_not_log_in_is_that_role_and_can_become_nobody_else() {
    let db = Database::new("job_nologin");
    let (group, member) = (db.role("group", &["s3_export_member"]), db.role("member", &[]));
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "ALTER ROLE {group} NOLOGIN; GRANT {group} TO {member};
             CREATE TABLE secret AS SELECT 42 AS answer;
             CREATE TABLE seen (who text);
             GRANT INSERT ON seen TO {group};
             CREATE SCHEMA own AUTHORIZATION {group}"
        ))
        .unwrap();
    // The session's user is the role itself, which only a superuser can make of a role that may not log in.
    let mut client = db.client();
    client.batch_execute(&format!("SET SESSION AUTHORIZATION {group}")).unwrap();
    let said = document(
        &db,
        &mut client,
        "SELECT current_user::text AS c, session_user::text AS s, current_setting('is_superuser') AS u",
    );
    assert_eq!((said["c"].as_str(), said["s"].as_str(), said["u"].as_str()), (Some(&*group), Some(&*group), Some("off")));
    // And the session's user is a superuser, who has put on the role.
    let mut lowered = db.client();
    lowered.batch_execute(&format!("SET ROLE {group}")).unwrap();
    let mut of_member = db.client_as(&member);
    of_member.batch_execute(&format!("SET ROLE {group}")).unwrap();

    // Each of these would give it the superuser's rights, did it work.
    client
        .batch_execute(
            "CREATE FUNCTION own.steal(command text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN EXECUTE command; RETURN current_user; END $$",
        )
        .unwrap();
    for (query, sqlstate) in [
        ("SELECT set_config('role', 'none', false) AS a", "42501"),
        ("SELECT set_config('role', 'postgres', true) AS a", "42501"),
        ("SELECT set_config('session_authorization', 'default', false) AS a", "42501"),
        ("SELECT own.steal('SET SESSION AUTHORIZATION DEFAULT') AS a", "42501"),
        ("SELECT own.steal('RESET SESSION AUTHORIZATION') AS a", "42501"),
        ("SELECT own.steal('RESET ROLE') AS a", "42501"),
        ("SELECT own.steal('SET ROLE postgres') AS a", "42501"),
        ("SELECT own.steal('ALTER ROLE ' || current_user || ' SUPERUSER') AS a", "42501"),
        ("SELECT answer FROM public.secret", "42501"),
        ("SELECT pg_read_file('PG_VERSION') AS a", "42501"),
        ("SELECT * FROM s3_export.jobs", "42501"),
    ] {
        for client in [&mut client, &mut lowered, &mut of_member] {
            let prefix = db.prefix();
            let id = enqueued(&db, client, &prefix, query, "");
            refused(ended(client, &id)).sqlstate(sqlstate);
            db.bucket.nothing_left(&prefix);
        }
    }
    // RESET ALL resets neither, and leaves the query with what it may.
    for client in [&mut client, &mut lowered, &mut of_member] {
        let said = document(&db, client, "SELECT own.steal('RESET ALL') AS a");
        assert_eq!(said["a"].as_str().unwrap(), group);
    }

    // A trigger that waits for the commit runs as the role too, when the export has ended.
    client
        .batch_execute(
            "CREATE TABLE own.t (a int);
             CREATE FUNCTION own.late() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.seen VALUES (current_user || ' ' || session_user); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON own.t DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION own.late();
             CREATE FUNCTION own.writes() RETURNS int LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO own.t VALUES (1); RETURN 1; END $$",
        )
        .unwrap();
    document(&db, &mut client, "SELECT own.writes() AS a");
    let seen = superuser.text("SELECT string_agg(who, ',') FROM seen");
    assert_eq!(seen, format!("{group} {group}"), "and the session's user is nobody else");
    client
        .batch_execute(
            "CREATE OR REPLACE FUNCTION own.late() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM set_config('role', 'none', false); RETURN NULL; END $$",
        )
        .unwrap();
    for client in [&mut client, &mut lowered, &mut of_member] {
        let id = enqueued(&db, client, &db.prefix(), "SELECT own.writes() AS a", "");
        refused(ended(client, &id)).sqlstate("42501");
    }
    superuser.batch_execute(&format!("DROP OWNED BY {group}")).unwrap();
}

#[test]
fn a_job_whose_role_or_integration_is_gone_says_so() {
    let db = Database::new("job_dropped");
    let (member, other) = (db.role("member", &["s3_export_member"]), db.role("other", &["s3_export_member"]));
    let running = busy(&db);
    db.create(&Integration { name: "short-lived", ..Integration::local() });
    let (mut client, mut superuser) = (db.client_as(&member), db.client());
    let of_role = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a", "");
    drop(client);
    let mut client = db.client_as(&other);
    let call = db.call_async(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'short-lived'");
    let of_integration = client.text(&format!("SELECT {call}"));
    let disconnected = enqueued(&db, &mut client, &db.prefix(), "SELECT 2 AS a", "");
    superuser
        .batch_execute(&format!("DELETE FROM s3_export.integrations WHERE name = 'short-lived'; DROP ROLE {member}"))
        .unwrap();
    assert_eq!(status(&mut superuser, &of_role), "QUEUED");
    assert_eq!(superuser.text(&format!("SELECT role FROM s3_export.exports WHERE export_id = '{of_role}'")), member);
    cancel_job(&mut superuser, &running);
    refused(ended(&mut superuser, &of_role)).sqlstate("42704").message("role of the export does not exist");
    refused(ended(&mut client, &of_integration)).sqlstate("42704").message("short-lived");
    ended(&mut client, &disconnected).unwrap();
}

#[test]
fn a_job_of_a_role_that_may_not_connect_any_more_says_so() {
    let db = Database::new("job_connect");
    let member = db.role("member", &["s3_export_member"]);
    let running = busy(&db);
    let id = enqueued(&db, &mut db.client_as(&member), &db.prefix(), "SELECT 1 AS a", "");
    let mut superuser = db.client();
    superuser.batch_execute(&format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", db.name)).unwrap();
    cancel_job(&mut superuser, &running);
    refused(ended(&mut superuser, &id)).sqlstate("42501").message("to connect").hint("GRANT CONNECT");
}

#[test]
fn each_role_sees_its_own_jobs_and_administrators_see_all() {
    let db = Database::new("job_sight");
    let owner = db.role("owner", &["s3_export_member"]);
    let in_group = db.role("in_group", &["s3_export_member", &owner]);
    let stranger = db.role("stranger", &["s3_export_member"]);
    let admin = db.role("admin", &["s3_export_admin"]);
    let plain = db.role("plain", &[]);
    let reader = db.role("reader", &["pg_read_all_data"]);
    let mut client = db.client_as(&owner);
    let id = enqueued(&db, &mut client, &db.prefix(), "SELECT 'classified' AS a, pg_sleep(600)::text AS b", "");
    wait_for_status(&mut client, &id, "RUNNING");
    // And one in a session.
    let prefix = db.prefix();
    let call = db.call(&prefix, "SELECT pg_sleep(600)::text AS b", "");
    let running = db.client_as(&owner).start(&format!("SELECT {call}"));
    super::fixture::wait_for("both", || (client.text("SELECT count(*) FROM s3_export.exports") == "2").then_some(()));

    let seen = "SELECT count(*) || ' ' || count(query) FILTER (WHERE query LIKE '%classified%') FROM s3_export.exports WHERE status = 'RUNNING'";
    for (role, expected) in [(&owner, "2 1"), (&in_group, "2 1"), (&stranger, "0 0"), (&admin, "2 1"), (&reader, "0 0")] {
        let mut session = db.client_as(role);
        if role == &reader {
            // Postgres lets it read the view, and the view shows it nothing; it may not call what the view calls.
            let outcome = session.query_one(seen, &[]);
            assert!(outcome.as_ref().err().and_then(|e| e.code()).is_none_or(|code| code.code() == "42501"), "{outcome:?}");
            if let Ok(row) = outcome {
                assert_eq!(row.get::<_, String>(0), expected);
            }
        } else {
            assert_eq!(session.text(seen), expected, "{role}");
        }
    }
    assert_eq!(db.client().text(seen), "2 1");
    refused(db.client_as(&plain).query(seen, &[])).sqlstate("42501");

    for (role, sqlstate) in [(&stranger, "42704"), (&admin, "42501"), (&plain, "42501")] {
        refused(db.client_as(role).query(&format!("SELECT s3_export.cancel('{id}')"), &[])).sqlstate(sqlstate);
    }
    for (role, sqlstate) in [(&stranger, "42704"), (&plain, "42501"), (&admin, "57014")] {
        refused(db.client_as(role).query(&format!("SELECT s3_export.wait('{id}', '50ms')"), &[])).sqlstate(sqlstate);
    }
    let call = db.call_async(&db.prefix(), "SELECT 1", "");
    refused(db.client_as(&plain).query(&format!("SELECT {call}"), &[])).sqlstate("42501");
    refused(db.client_as(&admin).query(&format!("SELECT {call}"), &[])).sqlstate("42501");

    assert!(cancel_job(&mut db.client_as(&in_group), &id));
    refused(ended(&mut client, &id)).sqlstate("57014");
    assert_eq!(db.client_as(&stranger).text("SELECT s3_export.prune('0')"), "0");
    assert_eq!(db.client_as(&admin).text("SELECT s3_export.prune('0')"), "1");
    assert_eq!(db.client().text(&format!("SELECT pg_cancel_backend({})", running.pid)), "t");
    let (session, outcome) = running.join();
    refused(outcome).sqlstate("57014");
    drop(messages(&session.notices()));
}

/// The query took the locks of the worker's session away, by which other sessions know that the job lives.
#[test]
fn a_query_that_unlocks_all_advisory_locks_keeps_its_job_alive() {
    let db = Database::new("job_unlock");
    let (mut client, mut witness) = (db.client(), db.client());
    let query = "SELECT pg_advisory_unlock_all()::text AS u, pg_sleep(1)::text AS s";
    let id = enqueued(&db, &mut client, &db.prefix(), query, "");
    wait_for_status(&mut client, &id, "RUNNING");
    for _ in 0..10 {
        assert_eq!(status(&mut witness, &id), "RUNNING");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ended(&mut client, &id).unwrap();
}

/// Between transactions no text can be converted; the worker did so.
#[test]
fn jobs_run_in_databases_of_other_encodings() {
    for (name, options) in [
        ("job_latin1", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
        ("job_ascii", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    ] {
        let db = Database::with_options(name, options);
        let (mut client, prefix) = (db.client(), db.prefix());
        let id = enqueued(&db, &mut client, &prefix, "SELECT 'ü' AS a", "");
        ended(&mut client, &id).unwrap();
        assert_eq!(db.bucket.documents(&prefix), [r#"{"a":"ü"}"#], "{name}");
        let id = enqueued(&db, &mut client, &db.prefix(), "SELECT 'ü'::int AS a", "");
        refused(ended(&mut client, &id)).sqlstate("22P02").message("invalid input syntax for type integer");
    }
}
