//! Whom a job runs as, with which settings, and who sees it.

use super::fixture::{
    Database, Integration, Session, cancel_job, ended, enqueued, literal, messages, refused, status, wait_for_status,
};

/// What the only document of an export says.
fn document(db: &Database, client: &mut Session, query: &str) -> serde_json::Value {
    let prefix = db.prefix();
    let id = enqueued(db, client, &prefix, query, "");
    ended(client, &id).unwrap();
    db.bucket.values(&prefix).remove(0)
}

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
fn a_job_has_the_settings_of_the_session_that_enqueued_it() {
    let db = Database::new("job_settings");
    let member = db.role("member", &["s3_export_member"]);
    db.client()
        .batch_execute(&format!(
            "CREATE TABLE orders AS SELECT t AS tenant, i AS id FROM unnest('{{acme,evil}}'::text[]) t, generate_series(1, 3) i;
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON orders TO {member} USING (tenant = current_setting('app.tenant'));
             GRANT SELECT ON orders TO {member};
             ALTER ROLE {member} SET app.region = 'north'"
        ))
        .unwrap();
    let mut client = db.client_as(&member);
    client
        .batch_execute(
            "SET app.tenant = 'acme'; SET search_path = public, pg_temp; SET TimeZone = 'Asia/Tokyo'; SET work_mem = '7MB';
             SET DateStyle = 'German'; SET application_name = 'nightly'; SET s3_export.output_chunk_size = 2",
        )
        .unwrap();
    let prefix = db.prefix();
    let id = enqueued(&db, &mut client, &prefix, "SELECT tenant, id FROM orders ORDER BY id", "");
    ended(&mut client, &id).unwrap();
    let values = db.bucket.values(&prefix);
    assert_eq!(values.len(), 3);
    assert!(values.iter().all(|row| row["tenant"] == "acme"), "{values:?}");
    assert_eq!(db.bucket.files(&prefix).len(), 2, "its own output_chunk_size");
    let names = ["app.tenant", "app.region", "search_path", "TimeZone", "work_mem", "DateStyle", "application_name"];
    let columns: Vec<String> = names.iter().map(|name| format!("current_setting('{name}') AS \"{name}\"")).collect();
    let query = format!("SELECT {}", columns.join(", "));
    let said = document(&db, &mut client, &query);
    let expected = ["acme", "north", "public, pg_temp", "Asia/Tokyo", "7MB", "German, DMY", "nightly"];
    for (name, expected) in names.iter().zip(expected) {
        assert_eq!(said[name].as_str(), Some(expected), "{name}");
    }
    // They are nobody else's to see, and gone with the end of the job.
    refused(client.query("SELECT settings FROM s3_export.jobs", &[])).sqlstate("42501");
    assert_eq!(db.client().text("SELECT count(*) FROM s3_export.jobs WHERE settings IS NOT NULL"), "0");
}

/// Settings of the worker's login were left as they were, so that another table of the same name was exported.
#[test]
fn a_job_has_no_setting_that_its_caller_did_not_have() {
    let db = Database::new("job_no_settings");
    let (batch, group) = (db.role("batch", &["s3_export_member"]), db.role("group", &["s3_export_member"]));
    let user = db.role("user", &[&batch, "s3_export_member"]);
    let mut superuser = db.client();
    let schemas = ["batch_s", "later_s", "admin_s"].map(|schema| {
        format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.t AS SELECT '{schema}' AS which; GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
                 GRANT SELECT ON {schema}.t TO PUBLIC;")
    });
    superuser
        .batch_execute(&format!(
            "{} CREATE TABLE public.t AS SELECT 'public' AS which; GRANT SELECT ON public.t TO PUBLIC;
             ALTER ROLE {group} NOLOGIN;
             ALTER DATABASE {} SET app.region = 'north';
             ALTER ROLE {batch} SET search_path = batch_s; ALTER ROLE {batch} SET app.tenant = 'of batch'",
            schemas.concat(),
            db.name
        ))
        .unwrap();
    // Sessions that were there before the settings of their logins.
    let (mut as_batch, mut open, mut unlogged) = (db.client_as(&user), db.client_as(&user), db.client());
    as_batch.batch_execute(&format!("SET ROLE {batch}")).unwrap();
    unlogged.batch_execute(&format!("SET SESSION AUTHORIZATION {group}")).unwrap();
    superuser
        .batch_execute(&format!(
            "ALTER ROLE {user} SET search_path = later_s; ALTER ROLE {user} SET app.tenant = 'later';
             ALTER ROLE {user} IN DATABASE {0} SET app.region = 'south'; ALTER ROLE {user} SET lock_timeout = '7s';
             ALTER ROLE {user} SET exit_on_error = on;
             ALTER DATABASE {0} SET work_mem = '5MB'; ALTER DATABASE {0} SET app.late = 'late';
             ALTER ROLE postgres IN DATABASE {0} SET log_min_messages = 'fatal';
             ALTER ROLE postgres IN DATABASE {0} SET search_path = admin_s;
             ALTER ROLE postgres IN DATABASE {0} SET app.tenant = 'of the superuser'",
            db.name
        ))
        .unwrap();
    let query =
        "SELECT which, current_setting('search_path') AS path, coalesce(current_setting('app.tenant', true), '') AS tenant,
                     coalesce(current_setting('app.late', true), '') AS late, current_setting('app.region') AS region,
                     current_setting('work_mem') AS memory, current_setting('log_min_messages') AS messages, current_setting('lock_timeout') AS lock FROM t";
    for (who, client) in [("batch", &mut as_batch), ("open", &mut open), ("unlogged", &mut unlogged)] {
        let prefix = db.prefix();
        db.export_to(client, &prefix, query, "").unwrap();
        let direct = db.bucket.values(&prefix).remove(0);
        assert_eq!(direct["which"], "public", "{who}");
        assert_eq!(document(&db, client, query), direct, "{who}");
    }
    // What its login has is the job's, where it is the caller's too; and it may be put off.
    let mut fresh = db.client_as(&user);
    assert_eq!(document(&db, &mut fresh, query)["which"], "later_s");
    fresh.batch_execute("SET search_path = public; SET app.tenant = ''").unwrap();
    assert_eq!(document(&db, &mut fresh, query)["which"], "public");
}

/// The first error ended the worker, before it was written down.
#[test]
fn settings_that_end_a_session_do_not_reach_a_job() {
    let db = Database::new("job_exit_on_error");
    let member = db.role("member", &["s3_export_member"]);
    let mut superuser = db.client();
    superuser.batch_execute(&format!("ALTER ROLE {member} SET default_transaction_deferrable = on")).unwrap();
    let mut client = db.client_as(&member);
    client
        .batch_execute("SET exit_on_error = on; SET statement_timeout = '1h'; SET idle_in_transaction_session_timeout = '1h'")
        .unwrap();
    let id = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 / (i - 5) AS a FROM generate_series(1, 9) i", "");
    client.batch_execute("SET exit_on_error = off").unwrap();
    refused(ended(&mut client, &id)).sqlstate("22012").message("division by zero");
    let names = ["exit_on_error", "statement_timeout", "idle_in_transaction_session_timeout", "default_transaction_deferrable"];
    let query = names.map(|name| format!("current_setting('{name}') AS {name}")).join(", ");
    client.batch_execute("SET exit_on_error = on").unwrap();
    let said = document(&db, &mut client, &format!("SELECT {query}"));
    for (name, expected) in names.iter().zip(["off", "0", "0", "off"]) {
        assert_eq!(said[name].as_str(), Some(expected), "{name}");
    }
    if db.major() >= 17 {
        // Which would end the worker in the middle of its transaction.
        superuser.batch_execute(&format!("ALTER ROLE {member} SET transaction_timeout = '50ms'")).unwrap();
        document(&db, &mut client, "SELECT pg_sleep(0.2)::text AS a");
    }
}

#[test]
fn settings_that_only_a_superuser_may_set_are_not_lent() {
    let db = Database::new("job_suset");
    let member = db.role("member", &["s3_export_member"]);
    // Which a superuser has set for the session of somebody else.
    let mut client = db.client();
    client
        .batch_execute(&format!(
            "SET session_replication_role = 'replica'; SET lc_messages = 'C'; SET SESSION AUTHORIZATION {member}"
        ))
        .unwrap();
    let said = document(&db, &mut client, "SELECT current_setting('session_replication_role') AS a, session_user::text AS s");
    assert_eq!((said["a"].as_str().unwrap(), said["s"].as_str().unwrap()), ("origin", &*member));
}

/// A table whose column has the name of a variable, and a function that must be told which of both is meant. The function answers 1
/// where that is the column, and is in an error (42702) where nobody has said so.
fn ambiguous(db: &Database) {
    db.client()
        .batch_execute(
            "CREATE TABLE t AS SELECT 1 AS a; GRANT SELECT ON t TO PUBLIC;
             CREATE FUNCTION ambiguous() RETURNS int LANGUAGE plpgsql AS $$
             DECLARE a int := 2; r int; BEGIN SELECT a INTO r FROM public.t; RETURN r; END $$",
        )
        .unwrap();
}

/// A job accepted them as the superuser's own, where the session of whoever had set them refuses them.
#[test]
fn settings_of_a_library_that_is_not_loaded_yet_have_the_rights_of_whoever_set_them() {
    let db = Database::new("job_placeholder");
    ambiguous(&db);
    let member = db.role("member", &["s3_export_member"]);
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "CREATE FUNCTION lent(uri text) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                 AS $$ SELECT s3_export_async(uri, 'local', 'SELECT current_setting(''app.tenant'') AS t, public.ambiguous() AS a') $$;
             GRANT EXECUTE ON FUNCTION lent TO {member}"
        ))
        .unwrap();
    let set = "SET plpgsql.variable_conflict = 'use_column'; SET app.tenant = 'acme'";
    let prefix = db.prefix();
    let lent = format!("SELECT lent({})", literal(&db.bucket.uri(&prefix)));
    let mut client = db.client_as(&member);
    client.batch_execute(set).unwrap();
    let id = client.text(&lent);
    refused(ended(&mut superuser, &id)).sqlstate("42702");
    refused(client.query("SELECT ambiguous()", &[])).sqlstate("42702");
    // The login of the session is a superuser, and somebody else has set them.
    let mut client = db.client();
    client.batch_execute(&format!("SET ROLE {member}; {set}; RESET ROLE")).unwrap();
    let id = client.text(&lent);
    refused(ended(&mut superuser, &id)).sqlstate("42702");
    // The superuser itself has set them.
    let mut client = db.client();
    client.batch_execute(set).unwrap();
    let id = client.text(&lent);
    ended(&mut superuser, &id).unwrap();
    assert_eq!(db.bucket.documents(&prefix), [r#"{"t":"acme","a":1}"#]);
}

/// The worker, which had not loaded the library yet, took the setting for one that the role might have set, and emptied it.
#[test]
fn settings_that_a_superuser_has_given_to_a_role_are_its_jobs_too() {
    let db = Database::new("job_suset_role");
    ambiguous(&db);
    let member = db.role("member", &["s3_export_member"]);
    db.client().batch_execute(&format!("ALTER ROLE {member} SET plpgsql.variable_conflict = 'use_column'")).unwrap();
    let mut client = db.client_as(&member);
    let query = "SELECT public.ambiguous() AS a";
    assert_eq!(document(&db, &mut client, query)["a"], 1, "before the session has loaded the library");
    client.batch_execute("DO $$ BEGIN NULL; END $$").unwrap();
    assert_eq!(document(&db, &mut client, query)["a"], 1, "and afterwards");
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

/// The worker's own statements ran as the session's defaults said, and could not write.
#[test]
fn defaults_of_the_role_do_not_reach_what_the_worker_writes_down() {
    let db = Database::new("job_role_defaults");
    let member = db.role("member", &["s3_export_member"]);
    db.client()
        .batch_execute(&format!(
            "ALTER ROLE {member} SET default_transaction_read_only = on; ALTER ROLE {member} SET lock_timeout = '1ms';
             ALTER ROLE {member} SET default_transaction_isolation = 'serializable'"
        ))
        .unwrap();
    let mut client = db.client_as(&member);
    for (query, sqlstate) in [("SELECT 1 AS a", None), ("SELECT 1 / 0 AS a", Some("22012"))] {
        client.batch_execute("BEGIN READ WRITE").unwrap();
        let id = enqueued(&db, &mut client, &db.prefix(), query, "");
        // Longer than the worker would wait for a lock.
        std::thread::sleep(std::time::Duration::from_millis(50));
        client.batch_execute("COMMIT").unwrap();
        match sqlstate {
            None => drop(ended(&mut client, &id).unwrap()),
            Some(sqlstate) => drop(refused(ended(&mut client, &id)).sqlstate(sqlstate)),
        }
    }
}

/// It took the session's locks away, by which others know that the job lives.
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
