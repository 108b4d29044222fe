//! Settings that a job has: those of the session that enqueued it, with the rights of the role that set them, and no others.

use super::fixture::job::document;
use super::fixture::{Database, ended, enqueued, literal, refused};

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

/// The first error ended the worker before the error was recorded in the job.
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

/// A job accepted such settings as the superuser's own, where the session of the role that had set them refuses them.
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
