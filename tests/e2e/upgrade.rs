//! A database that had an earlier release and was upgraded has the catalog of a fresh installation, and each function that
//! could be called still answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use super::fixture::{Database, Integration, ServerFile, Session, ended, literal, messages, refused};

/// Releases that have an upgrade path to this version, the oldest first. An upgrade from an older one passes through the others.
const RELEASES: [&str; 2] = ["0.1.0", "0.2.0"];
/// The extension's functions that are called by name: each with the names of its arguments, and what it gives.
const SIGNATURES: &str =
    "SELECT p.oid::regprocedure::text, coalesce(proargnames::text, '') || ' ' || pg_get_function_result(p.oid)
    FROM pg_depend d JOIN pg_proc p ON p.oid = objid
    WHERE deptype = 'e' AND classid = 'pg_proc'::regclass AND prorettype <> 'trigger'::regtype
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 's3_export')";

/// Returns a database with that release and the integration `local`.
fn release(version: &str, name: &str) -> Database {
    let db = Database::empty(name, "");
    install(&db, version);
    db.create(&Integration::local());
    db
}

/// Installs that release's script and makes the extension of that version in `db`.
fn install(db: &Database, version: &str) {
    let shared = Command::new(db.environment().pg_bin.join("pg_config")).arg("--sharedir").output().unwrap();
    let script = format!("s3_export--{version}.sql");
    // As a package that is installed over an older one leaves it.
    let installed = format!("{}/extension/{script}", String::from_utf8(shared.stdout).unwrap().trim());
    fs::copy(format!("{}/sql/{script}", env!("CARGO_MANIFEST_DIR")), &installed).unwrap();
    db.client().batch_execute(&format!("CREATE EXTENSION s3_export VERSION '{version}'")).unwrap();
}

fn upgrade(db: &Database) {
    let mut client = db.client();
    client.batch_execute("ALTER EXTENSION s3_export UPDATE").unwrap();
    let said = messages(&client.notices());
    assert!(!said.contains("is not the extension's"), "{said}");
    assert_eq!(
        client.text("SELECT extversion FROM pg_extension WHERE extname = 's3_export'"),
        env!("CARGO_PKG_VERSION"),
        "sql/ has no path of scripts to this version"
    );
}

/// All that the extension has made, as SQL, but for what a server counts on its own.
fn catalog(db: &Database) -> String {
    let dump = db.dump_with(&["--schema-only", "--binary-upgrade"]);
    // Transaction ids, and the last lock a dump against injection, with a key of each run's own.
    let of_this_server = ["binary_upgrade_", "relfrozenxid", "\\restrict", "\\unrestrict"];
    let lines = dump.lines().filter(|line| !of_this_server.iter().any(|word| line.contains(word)));
    lines.map(without_oids).collect::<Vec<_>>().join("\n")
}

/// The line with `N` for each OID. OIDs of objects that a database has made have five digits at least; nothing else of ours has, but
/// SQLSTATEs in comments.
fn without_oids(line: &str) -> String {
    let mut digits = 0;
    let mut kept = String::new();
    for character in line.chars().chain(['\n']) {
        if character.is_ascii_digit() {
            digits += 1;
        } else {
            if digits >= 5 {
                kept.truncate(kept.len() - digits);
                kept.push('N');
            }
            digits = 0;
        }
        kept.push(character);
    }
    kept
}

#[test]
fn an_upgrade_from_each_release_gives_the_catalog_of_a_fresh_install() {
    let fresh = Database::new("fresh");
    let wanted = catalog(&fresh);
    let dumped = "SELECT array_agg(t::regclass || c ORDER BY t::regclass::text)::text
        FROM pg_extension, unnest(extconfig, extcondition) AS u (t, c) WHERE extname = 's3_export'";
    for version in RELEASES {
        let upgraded = release(version, &format!("upgraded_{}", version.replace('.', "_")));
        let before = catalog(&upgraded);
        upgrade(&upgraded);
        let after = catalog(&upgraded);
        assert!(after.contains("CREATE FUNCTION pg_catalog.s3_export(") && after.contains("CREATE POLICY"), "{after}");
        assert_ne!(before, after, "{version}");
        for (after, wanted) in after.lines().zip(wanted.lines()) {
            assert_eq!(after, wanted, "{version}");
        }
        assert_eq!(after.lines().count(), wanted.lines().count(), "{version}");
        assert_eq!(upgraded.client().text(dumped), fresh.client().text(dumped), "{version}");
    }
}

/// The functions that were called by one of the statements, as `regprocedure` prints them.
fn called(client: &mut Session, statements: &[String]) -> BTreeSet<String> {
    client.batch_execute("SET track_functions = 'all'").unwrap();
    let mut called = BTreeSet::new();
    for statement in statements {
        let failed = |error| panic!("{statement}: {error:?}");
        client.batch_execute(&format!("BEGIN; {statement}")).unwrap_or_else(failed);
        let counted = client.query("SELECT funcid::regprocedure::text FROM pg_stat_xact_user_functions", &[]).unwrap();
        client.batch_execute("COMMIT").unwrap_or_else(failed);
        called.extend(counted.iter().map(|row| row.get::<_, String>(0)));
    }
    called
}

/// Calls everything by the first release's signatures, whole; gives which these were. `round`: its integration's name.
fn call_all(db: &Database, round: &str) -> BTreeSet<String> {
    // A session that has loaded nothing, as most have that meet another version.
    let mut client = db.client();
    let uri = literal(&db.bucket.uri(&db.prefix()));
    let (key, secret) = (Integration::local().access_key_id, Integration::local().secret_access_key);
    let key_file = ServerFile::of(db, "keys", &format!("[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"));
    let (key, secret, file) = (literal(&key), literal(&secret), literal(key_file.path()));
    let arguments = "'json', 'none', 10, NULL::bigint, NULL::text[], false, true, '{}'::jsonb";
    let insert = literal(&format!("INSERT INTO {uri} INTEGRATION = 'local' SELECT 1 AS a"));
    let jobs = [format!("s3_export_async({uri}, 'local', 'SELECT 1 AS a', {arguments})"), format!("s3_export_async({insert})")]
        .map(|call| format!("CREATE TEMPORARY TABLE IF NOT EXISTS job (id uuid); INSERT INTO job SELECT {call}"));
    // Up to 0.2.0 the function had another name; no user calls it.
    let lost_worker = client.text(
        "SELECT p.oid::regproc FROM pg_proc AS p WHERE p.pronamespace = 's3_export'::regnamespace AND p.proname IN ('death', 'lost_worker')",
    );
    let calls = [
        format!("s3_export.create_integration('{round}', {key}, {secret}, NULL::text, 'arn:aws:iam::123456789012:role/x', 'id'::text,
             'keys', 'us-east-1', NULL::text, true, '{{s3://exports}}'::text[], 's3_export_member'::name, '{{}}'::jsonb)"),
        "job, s3_export.wait(id, '1 min'::interval)".to_owned(),
        "job, s3_export.cancel(id)".to_owned(),
        format!("job, {lost_worker}(id)"),
        "s3_export.prune('1 day'::interval)".to_owned(),
        "s3_export.running()".to_owned(),
        "s3_export.options()".to_owned(),
        format!("s3_export({uri}, 'local', 'SELECT 1 AS a')"),
        format!("s3_export({uri}, 'local', 'SELECT 1 AS a', {arguments})"),
        format!("s3_export({insert})"),
        format!("s3_export.set_credentials('local', {key}, {secret}, NULL::text)"),
        format!("s3_export.set_credentials_from_file('local', {file})"),
        "s3_export.reseal()".to_owned(),
        format!("s3_export.validate_integration('local', {uri})"),
        format!("s3_export.cleanup({uri}, 'local', '7 days'::interval, true, false)"),
        "s3_export.iam_policy('local', 'export')".to_owned(),
        format!("s3_export.trust_policy('{round}', 'arn:aws:iam::123456789012:user/x')"),
    ]
    .map(|call| format!("SELECT * FROM {call}"));
    let mut called = called(&mut client, &[jobs.as_slice(), calls.as_slice()].concat());

    // It reaches its own code, which refuses what it asks for, and what raises is not counted.
    let role = format!("s3_export_with_role({uri}, 'arn:aws:iam::123456789012:role/x', 'id', 'SELECT 1 AS a', {arguments})");
    refused(client.batch_execute(&format!("SELECT * FROM {role}"))).sqlstate("42501").message("may not be named inline");
    called.insert(client.text("SELECT 's3_export_with_role'::regproc::regprocedure"));
    called
}

#[test]
fn every_signature_of_the_first_release_answers_before_and_after_the_upgrade() {
    let db = release(RELEASES[0], "old_signatures");
    let signatures = || -> BTreeMap<String, String> {
        db.client().query(SIGNATURES, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let old = signatures();
    let all: BTreeSet<String> = old.keys().cloned().collect();
    let renamed = |function: &str| function.replace("s3_export.death(", "s3_export.lost_worker(");
    // Between the installation of a new library and the update of each database, that library serves the old SQL.
    let before = call_all(&db, "before");
    assert!(before.is_superset(&all), "not called: {:?}", &all - &before);
    upgrade(&db);
    for (function, signature) in &old {
        assert_eq!(signatures().get(&renamed(function)), Some(signature), "{function}");
    }
    let after = call_all(&db, "after");
    let all: BTreeSet<String> = all.iter().map(|function| renamed(function)).collect();
    assert!(after.is_superset(&all), "not called: {:?}", &all - &after);
    // What was stored is as it was.
    let mut client = db.client();
    assert_eq!(client.text("SELECT string_agg(name, ',' ORDER BY name) FROM s3_export.integrations"), "after,before,local");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.jobs WHERE status = 'COMPLETED'"), "4");
}

/// The privileges on all that the extension has made, one a line.
const PRIVILEGES: &str = "WITH made AS (SELECT * FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
         AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 's3_export')),
     object AS (
         SELECT oid::regclass::text AS name, relacl AS acl FROM pg_class JOIN made ON classid = 'pg_class'::regclass AND objid = oid
         UNION ALL SELECT oid::regprocedure::text, proacl FROM pg_proc JOIN made ON classid = 'pg_proc'::regclass AND objid = oid
         UNION ALL SELECT nspname, nspacl FROM pg_namespace JOIN made ON classid = 'pg_namespace'::regclass AND objid = oid
         UNION ALL SELECT attrelid::regclass || '.' || attname, attacl FROM pg_attribute JOIN made
             ON classid = 'pg_class'::regclass AND objid = attrelid)
     SELECT string_agg(format('%s: %s %s %s', name, grantee::regrole, privilege_type, is_grantable), E'\n'
                       ORDER BY name, grantee::regrole::text, privilege_type)
     FROM object, aclexplode(acl)";

/// Makes `postgres` grant all it creates in that database to PUBLIC, to the extension's own roles and to `role`.
fn widen(db: &Database, role: &str) {
    let mut client = db.client();
    for (objects, grantees) in [
        ("TABLES", format!("{role}, s3_export_member")),
        ("SEQUENCES", role.to_owned()),
        ("FUNCTIONS", format!("{role}, s3_export_member, s3_export_admin")),
        ("TYPES", role.to_owned()),
        ("SCHEMAS", format!("{role}, s3_export_member")),
    ] {
        client
            .batch_execute(&format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON {objects} TO {grantees} WITH GRANT OPTION"))
            .unwrap();
    }
    client
        .batch_execute(&format!(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
             ALTER DEFAULT PRIVILEGES IN SCHEMA pg_catalog GRANT ALL ON FUNCTIONS TO {role}"
        ))
        .unwrap();
}

/// A trigger outlives the privilege that it was made with, and runs as whoever writes the table.
#[test]
fn attack_triggers_that_default_privileges_let_in_before_an_upgrade() {
    let db = Database::empty("let_in", "");
    let app = db.role("app", &[]);
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {app}; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {app};
             GRANT CREATE ON SCHEMA public TO {app}"
        ))
        .unwrap();
    install(&db, "0.2.0");
    db.create(&Integration::local());
    superuser.batch_execute(&format!("GRANT s3_export_member TO {app}")).unwrap();
    let mut client = db.client_as(&app);
    // Functions of the extension's own, and the name of one of its triggers: the condition is the attack.
    client
        .batch_execute(&format!(
            "CREATE FUNCTION public.evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE {app} SUPERUSER'; END IF;
                 RETURN false; END $$;
             CREATE TRIGGER climb BEFORE INSERT ON s3_export.jobs
                 FOR EACH ROW WHEN (public.evil()) EXECUTE FUNCTION s3_export.before_integration_update();
             CREATE OR REPLACE TRIGGER c_keep_to_superusers AFTER INSERT OR UPDATE ON s3_export.integrations
                 FOR EACH ROW WHEN (public.evil()) EXECUTE FUNCTION s3_export.keep_to_superusers();
             CREATE TABLE public.other (id uuid REFERENCES s3_export.jobs ON DELETE CASCADE)"
        ))
        .unwrap();
    let (key, secret) = (Integration::local().access_key_id, Integration::local().secret_access_key);
    let set = format!("SELECT s3_export.set_credentials('local', {}, {})", literal(&key), literal(&secret));
    let job = format!("SELECT {}", db.call_async(&db.prefix(), "SELECT 1 AS a", ""));
    // The new library serves the old SQL until the upgrade.
    refused(superuser.batch_execute(&set)).sqlstate("55000").message("trigger \"c_keep_to_superusers\"");
    refused(client.batch_execute(&job)).sqlstate("55000").message("trigger \"climb\"");
    superuser.notices();
    superuser.batch_execute("ALTER EXTENSION s3_export UPDATE").unwrap();
    let said = messages(&superuser.notices());
    for what in [
        "trigger \"climb\" on table s3_export.jobs",
        "trigger \"c_keep_to_superusers\" on table s3_export.integrations",
        "foreign key \"other_id_fkey\" on table s3_export.jobs",
    ] {
        assert!(said.contains(&format!("{what} is not the extension's")), "{what}: {said}");
    }
    refused(client.batch_execute(&job)).sqlstate("55000").message("trigger \"climb\"");
    // The extension's own trigger is back, however the session prints names.
    superuser.batch_execute(&format!("SET quote_all_identifiers = on; {set}")).unwrap();
    assert_eq!(superuser.text(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{app}'")), "f");
    superuser.batch_execute("DROP TRIGGER climb ON s3_export.jobs; DROP TABLE public.other").unwrap();
    let id = client.text(&job);
    ended(&mut client, &id).unwrap();
    superuser.batch_execute(&format!("DROP OWNED BY {app}")).unwrap();
}

#[test]
fn default_privileges_give_nothing_of_the_extension_to_anybody() {
    let wanted = Database::new("narrow").client().text(PRIVILEGES);
    let db = Database::empty("widened", "");
    let app = db.role("app", &[]);
    widen(&db, &app);
    db.client().batch_execute("CREATE EXTENSION s3_export").unwrap();
    assert_eq!(db.client().text(PRIVILEGES), wanted);
    db.client().batch_execute(&format!("DROP OWNED BY {app}")).unwrap();
}

#[test]
fn an_upgrade_takes_back_what_default_privileges_have_given_and_keeps_what_was_granted() {
    let wanted = Database::new("unwidened").client().text(PRIVILEGES);
    for version in RELEASES {
        let db = Database::empty(&format!("repaired_{}", version.replace('.', "_")), "");
        let (app, other) = (db.role("app", &[]), db.role("other", &[]));
        widen(&db, &app);
        install(&db, version);
        let mut client = db.client();
        let may = |client: &mut Session, role: &str, table: &str, privilege: &str| {
            client.text(&format!("SELECT has_table_privilege('{role}', 's3_export.{table}', '{privilege}')")) == "t"
        };
        assert!(may(&mut client, &app, "jobs", "TRIGGER"), "nothing to repair");
        let deliberate = [
            format!("EXECUTE ON FUNCTION s3_export_with_role TO {other}"),
            format!("SELECT ON s3_export.exports TO {other}"),
            format!("SELECT, UPDATE ON s3_export.integrations TO {other}"),
            format!("SELECT (name) ON s3_export.integrations TO {app}"),
        ];
        for grant in &deliberate {
            client.batch_execute(&format!("GRANT {grant}")).unwrap();
        }
        client
            .batch_execute(&format!(
                "GRANT TRIGGER ON s3_export.jobs TO {other}; GRANT UPDATE (role_oid) ON s3_export.jobs TO {other};
                 GRANT EXECUTE ON FUNCTION s3_export.reseal TO {other}"
            ))
            .unwrap();
        let mut session = db.client();
        session.batch_execute("ALTER EXTENSION s3_export UPDATE").unwrap();
        assert!(messages(&session.notices()).contains(&format!("TRIGGER on TABLE s3_export.jobs was taken back from {app}")));
        assert!(may(&mut client, &other, "integrations", "UPDATE") && may(&mut client, &other, "exports", "SELECT"));
        for grant in &deliberate {
            client.batch_execute(&format!("REVOKE {}", grant.replace(" TO ", " FROM "))).unwrap();
        }
        assert_eq!(client.text(PRIVILEGES), wanted, "{version}");
        client.batch_execute(&format!("DROP OWNED BY {app}, {other}")).unwrap();
    }
}
