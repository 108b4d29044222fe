//! Attacks, each test named after its own. Those on the network are in `network`, on roles of AWS's in `roles`.

use super::fixture::{Database, Integration, Session, refused};

fn exports(db: &Database, client: &mut Session, integration: &str) -> Result<(), postgres::Error> {
    db.export_by(client, integration, "SELECT 1 AS a").map(|_| ())
}

#[test]
fn attack_an_endpoint_changed_under_a_sealed_secret() {
    let db = Database::new("endpoint_change");
    let local = Integration::local();
    let mut client = db.client();
    let slash = format!("{}/", local.endpoint);
    client.execute("UPDATE s3_export.integrations SET endpoint = $1", &[&slash]).unwrap();
    db.refuse("SELECT 1 AS a", "")
        .sqlstate("55000")
        .message("cannot be opened")
        .detail("another endpoint")
        .hint("set_credentials")
        .hides(&local.secret_access_key);
    let set = "SELECT s3_export.set_credentials('local', $1, $2)::text";
    client.query(set, &[&local.access_key_id, &local.secret_access_key]).unwrap();
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
}

#[test]
fn attack_a_sealed_row_copied_to_another_integration() {
    let db = Database::new("moved_row");
    db.create(&Integration { name: "other", secret_access_key: "other".into(), ..Integration::local() });
    db.client()
        .batch_execute(
            "UPDATE s3_export.credentials SET sealed = (SELECT sealed FROM s3_export.credentials JOIN s3_export.integrations
                 USING (integration_id) WHERE name = 'other')
             WHERE integration_id = (SELECT integration_id FROM s3_export.integrations WHERE name = 'local')",
        )
        .unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("55000").message("cannot be opened").hint("set_credentials");
    db.client().batch_execute("UPDATE s3_export.credentials SET sealed = '\\x01'").unwrap();
    db.refuse("SELECT 1 AS a", "").message("sealed");
}

/// The row that names its own `integration_id` must not get at the sealed secret of another.
#[test]
fn attack_an_administrator_who_takes_over_a_row() {
    let db = Database::new("takeover");
    let mut client = db.client_as(&db.role("admin", &["s3_export_admin", "s3_export_member"]));
    let id = db.client().text("SELECT integration_id FROM s3_export.integrations");
    for statement in [
        format!("INSERT INTO s3_export.integrations (integration_id, name, allowed_locations, region) VALUES ('{id}', 'x', '{{s3://}}', 'eu-1')
                 ON CONFLICT (integration_id) DO UPDATE SET endpoint = 'https://evil.example'"),
        "INSERT INTO s3_export.integrations (name, allowed_locations) VALUES ('local', '{s3://}')
         ON CONFLICT (name) DO UPDATE SET allowed_locations = '{s3://}'".to_owned(),
        "INSERT INTO s3_export.integrations (name, owner, allowed_locations) VALUES ('x', 'postgres', '{s3://}')".to_owned(),
    ] {
        refused(client.batch_execute(&statement)).sqlstate("42501");
    }
    assert_eq!(client.execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://}'", &[]).unwrap(), 0);
}

#[test]
fn attack_row_security_switched_off() {
    let db = Database::new("row_security");
    let analyst = db.role("analyst", &["s3_export_member"]);
    let mut client = db.client_as(&analyst);
    db.create(&Integration { name: "hidden", usage_role: "postgres", ..Integration::local() });
    client.batch_execute("SET row_security = off").unwrap();
    refused(exports(&db, &mut client, "hidden"));
}

/// Functions and operators of the user's must not run, or be believed, while the catalog is read.
#[test]
fn attack_functions_and_operators_in_front_of_the_search_path() {
    let db = Database::new("hijack");
    let analyst = db.role("analyst", &["s3_export_member"]);
    let mut superuser = db.client();
    superuser.batch_execute(&format!("CREATE SCHEMA evil AUTHORIZATION {analyst}")).unwrap();
    db.create(&Integration { name: "hidden", usage_role: "postgres", ..Integration::local() });
    let mut client = db.client_as(&analyst);
    client
        .batch_execute(
            "CREATE FUNCTION evil.yes(name, name) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.yes);
             CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
             CREATE FUNCTION evil.convert_from(bytea, name) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''hijacked''; END';
             CREATE TEMP TABLE pg_roles AS SELECT 'postgres'::name AS rolname;
             SET search_path = evil, pg_temp, pg_catalog",
        )
        .unwrap();
    refused(exports(&db, &mut client, "hidden")).sqlstate("42704");
    exports(&db, &mut client, "local").unwrap();
}

/// An administrator who is a member too may use a colleague's integration, and no more.
#[test]
fn attack_an_administrator_who_reads_the_identifiers_of_another() {
    let db = Database::new("identifiers");
    let (owner, other) = (db.role("owner", &["s3_export_admin"]), db.role("other", &["s3_export_admin", "s3_export_member"]));
    db.client_as(&owner)
        .batch_execute(
            "SELECT s3_export.create_integration('theirs', access_key_id => 'AKIATHEIRS', secret_access_key => 'S', usage_role => 'public',
                 aws_role => 'arn:aws:iam::012345678901:role/x', aws_external_id => 'ext-of-theirs', allowed_locations => '{s3://exports}')",
        )
        .unwrap();
    let mut client = db.client_as(&other);
    assert_eq!(client.text("SELECT count(*) FROM s3_export.integrations WHERE name = 'theirs'"), "1");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.owned_identifiers"), "0");
    for column in ["access_key_id", "aws_external_id"] {
        refused(client.query(&format!("SELECT {column} FROM s3_export.integrations"), &[])).sqlstate("42501");
    }
    let change = "UPDATE s3_export.integrations SET enabled = true WHERE name = 'theirs' RETURNING aws_external_id";
    refused(client.query(change, &[])).sqlstate("42501");
    for arguments in ["'theirs'", "'theirs', principal => 'arn:aws:iam::012345678901:root'"] {
        let trust = format!("SELECT s3_export.trust_policy({arguments})");
        refused(client.query(&trust, &[])).sqlstate("42704").hides("ext-of-theirs");
    }
    let mut owner = db.client_as(&owner);
    assert_eq!(
        owner.text("SELECT access_key_id || aws_external_id FROM s3_export.owned_identifiers"),
        "AKIATHEIRSext-of-theirs"
    );
    assert!(
        owner
            .text("SELECT s3_export.trust_policy('theirs', principal => 'arn:aws:iam::012345678901:root')")
            .contains("ext-of-theirs")
    );
}

/// Policies do not bind roles with BYPASSRLS, which who runs pg_dump may well have; triggers do.
#[test]
fn attack_an_administrator_with_bypassrls() {
    let db = Database::new("bypass");
    let dumper = db.role("dumper", &["s3_export_admin", "s3_export_member"]);
    db.client().batch_execute(&format!("ALTER ROLE {dumper} BYPASSRLS")).unwrap();
    let mut client = db.client_as(&dumper);
    let insert = |columns: &str, values: &str| {
        format!("INSERT INTO s3_export.integrations (name, allowed_locations, {columns}) VALUES ('x', '{{s3://}}', {values})")
    };
    for (columns, values) in [
        ("owner", "'postgres'"),
        ("owner, credential_source", "'postgres', 'ambient'"),
        ("credential_source", "'ambient'"),
        ("credential_source, aws_profile", "'profile', 'x'"),
        ("endpoint", "'http://127.0.0.1:1'"),
        ("sts_endpoint", "'http://127.0.0.1:1'"),
        ("owner", "'no_such_role'"),
    ] {
        refused(client.batch_execute(&insert(columns, values))).sqlstate("42501");
    }
    // Whatever a superuser's ownership stands for: its secret, its network, who may use it and where it writes.
    for change in [
        "owner = 'postgres'",
        "credential_source = 'ambient', access_key_id = NULL",
        "allowed_locations = '{s3://}'",
        "endpoint = 'https://127.0.0.1:1'",
        "sts_endpoint = 'https://127.0.0.1:1'",
        "usage_role = 'public'",
        "enabled = true",
        "name = 'mine'",
    ] {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {change}"))).sqlstate("42501");
    }
    refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET owner = '{dumper}'"))).sqlstate("42501");
    refused(client.batch_execute("DELETE FROM s3_export.integrations")).sqlstate("42501");
    refused(client.batch_execute("SELECT s3_export.set_credentials('local', 'K', 'S')"))
        .sqlstate("42501")
        .message("only a superuser may change")
        .detail("\"local\"");
    let take_over = "INSERT INTO s3_export.integrations (name, allowed_locations) VALUES ('local', '{s3://}')
                     ON CONFLICT (name) DO UPDATE SET endpoint = 'https://127.0.0.1:1'";
    refused(client.batch_execute(take_over)).sqlstate("42501");
    client.batch_execute(&insert("region", "'eu-1'")).unwrap();
    // A row of its own is its own.
    client.batch_execute("UPDATE s3_export.integrations SET usage_role = 'public' WHERE name = 'x'").unwrap();
    client.batch_execute("DELETE FROM s3_export.integrations WHERE name = 'x'").unwrap();
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
}

/// A role that may add a trigger to a table that a superuser writes can run code as the superuser.
#[test]
fn attack_a_trigger_or_rule_on_the_extensions_own_tables() {
    let db = Database::new("own_triggers");
    let app = db.role("app", &["s3_export_member", "s3_export_admin"]);
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "GRANT TRIGGER ON s3_export.jobs, s3_export.credentials, s3_export.integrations TO {app};
             GRANT EXECUTE ON FUNCTION s3_export.reseal TO {app};
             CREATE SCHEMA app AUTHORIZATION {app}"
        ))
        .unwrap();
    let mut client = db.client_as(&app);
    client
        .batch_execute(&format!(
            "CREATE FUNCTION app.climb() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN EXECUTE 'ALTER ROLE {app} SUPERUSER'; RETURN NEW; END $$"
        ))
        .unwrap();
    let create = "SELECT s3_export.create_integration('mine', access_key_id => 'K', secret_access_key => 'S', region => 'eu-1',
                      allowed_locations => '{s3://exports}')";
    let job = format!("SELECT {}", db.call_async(&db.prefix(), "SELECT 1 AS a", ""));
    for (table, statement) in [
        ("jobs", &*job),
        ("jobs", "SELECT s3_export.prune('0')"),
        ("credentials", create),
        ("credentials", "SELECT s3_export.set_credentials('local', 'K', 'S')"),
        ("credentials", "SELECT s3_export.reseal()"),
        ("integrations", create),
        ("integrations", "SELECT s3_export.set_credentials('local', 'K', 'S')"),
    ] {
        let trigger = format!("CREATE TRIGGER climb BEFORE INSERT OR UPDATE ON s3_export.{table} FOR EACH ROW");
        client.batch_execute(&format!("{trigger} EXECUTE FUNCTION app.climb()")).unwrap();
        // A superuser who calls it is as little its victim.
        refused(superuser.batch_execute(statement)).sqlstate("55000").message("trigger \"climb\"").message(table);
        if !statement.contains("'local'") && !statement.contains("reseal") {
            refused(client.batch_execute(statement)).sqlstate("55000").message("trigger \"climb\"").hint("superuser");
        }
        superuser.batch_execute(&format!("DROP TRIGGER climb ON s3_export.{table}")).unwrap();
    }
    // A function of the extension's own makes no trigger of its own: not by another condition, not on another table.
    superuser.batch_execute(&format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA s3_export TO {app}")).unwrap();
    client.batch_execute("CREATE FUNCTION app.never() RETURNS boolean LANGUAGE sql AS 'SELECT false'").unwrap();
    for (table, function, condition, statement) in [
        ("jobs", "before_integration_update()", "WHEN (app.never())", &*job),
        ("jobs", "keep_to_superusers()", "", &*job),
        ("jobs", "keep_to_superusers()", "WHEN (query_to_xml('SELECT 1', true, true, '') IS NULL)", &*job),
        ("integrations", "before_integration_update()", "WHEN (app.never())", create),
        ("credentials", "resolve_role('owner')", "WHEN (app.never())", create),
    ] {
        let trigger = format!("CREATE TRIGGER borrowed BEFORE INSERT ON s3_export.{table} FOR EACH ROW {condition}");
        client.batch_execute(&format!("{trigger} EXECUTE FUNCTION s3_export.{function}")).unwrap();
        refused(client.batch_execute(statement)).sqlstate("55000").message("trigger \"borrowed\"").message(table);
        superuser.batch_execute(&format!("DROP TRIGGER borrowed ON s3_export.{table}")).unwrap();
    }
    for (make, undo, part) in [
        (
            "CREATE RULE r AS ON INSERT TO s3_export.jobs DO ALSO SELECT 1",
            "DROP RULE r ON s3_export.jobs".to_owned(),
            "rule \"r\"",
        ),
        (
            "CREATE TABLE app.child () INHERITS (s3_export.jobs)",
            "DROP TABLE app.child".to_owned(),
            "child or parent table \"app.child\"",
        ),
        (
            "CREATE TABLE app.other (id uuid REFERENCES s3_export.jobs ON DELETE CASCADE)",
            "DROP TABLE app.other".to_owned(),
            "foreign key",
        ),
        (
            &*format!("ALTER TABLE s3_export.jobs OWNER TO {app}"),
            "ALTER TABLE s3_export.jobs OWNER TO postgres".to_owned(),
            "who is no superuser",
        ),
    ] {
        superuser.batch_execute(make).unwrap();
        refused(client.batch_execute(&job)).sqlstate("55000").message(part);
        superuser.batch_execute(&undo).unwrap();
    }
    // What is granted by mistake is not given either.
    refused(client.batch_execute("SELECT s3_export.reseal()")).sqlstate("42501").detail("Only a superuser");
    let outsider = db.role("outsider", &[]);
    superuser.batch_execute(&format!("GRANT EXECUTE ON FUNCTION s3_export_with_role TO {outsider}")).unwrap();
    let inline = "SELECT s3_export_with_role('s3://exports/x', 'arn:aws:iam::012345678901:role/x', 'x', 'SELECT 1')";
    refused(db.client_as(&outsider).batch_execute(inline)).sqlstate("42501").detail("s3_export_member");
    assert_eq!(superuser.text(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{app}'")), "f");
    superuser.batch_execute(&format!("DROP OWNED BY {app}, {outsider}")).unwrap();
}

/// A session token travels to STS as well.
#[test]
fn attack_an_sts_endpoint_changed_under_a_sealed_secret() {
    let db = Database::new("sts_change");
    let mut client = db.client();
    let gateway = super::fixture::Gateway::to(&Integration::local().endpoint, |_| super::fixture::Action::Forward);
    client
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('x', access_key_id => 'K', secret_access_key => 'S', session_token => 'T',
                 aws_role => 'arn:aws:iam::012345678901:role/x', endpoint => 'http://127.0.0.1:1', allowed_locations => '{{s3://exports}}',
                 options => '{{\"sts_endpoint\": \"http://127.0.0.1:1\"}}');
             UPDATE s3_export.integrations SET sts_endpoint = '{}' WHERE name = 'x'",
            gateway.endpoint()
        ))
        .unwrap();
    refused(exports(&db, &mut client, "x")).sqlstate("55000").message("cannot be opened");
    refused(client.query("SELECT s3_export.trust_policy('x')", &[])).sqlstate("55000");
    assert!(gateway.requests().is_empty());
}

#[test]
fn attack_a_location_beside_the_allowed_one() {
    let db = Database::new("sibling");
    let mut client = db.client();
    client.batch_execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://exports/team}'").unwrap();
    for uri in ["s3://exports/team2", "s3://exports/tea", "s3://exports", "s3://exports2/team", "s3://exports/Team"] {
        let call = format!("SELECT s3_export('{uri}', 'local', 'SELECT 1 AS a')");
        refused(client.batch_execute(&call)).sqlstate("42501").message("does not allow").detail("s3://exports/team");
    }
    for uri in ["s3://exports/team/../other", "s3://exports/team/./x", "s3://exports/team//x", "s3://exports/team/%2e%2e\n/x"] {
        let call = format!("SELECT s3_export(E'{uri}', 'local', 'SELECT 1 AS a')");
        refused(client.batch_execute(&call)).sqlstate("22023");
    }
    // What a browser would take for the parent is a name like any other to S3.
    let encoded = format!("s3://exports/team/%2e%2e/{}", db.name);
    client.batch_execute(&format!("SELECT s3_export('{encoded}', 'local', 'SELECT 1 AS a')")).unwrap();
    assert_eq!(db.bucket.files(&encoded.replace("s3://exports/", "")).len(), 1);
    db.bucket.empty("team/");
}

/// Policies ask for the roles of who runs: neither side of a SECURITY DEFINER function adds to the other's.
#[test]
fn attack_a_policy_bypassed_by_a_security_definer_function() {
    let db = Database::new("definer_bypass");
    let (owner, caller) = (db.role("owner", &["s3_export_member"]), db.role("caller", &["s3_export_member"]));
    for usage_role in [&owner, &caller] {
        db.create(&Integration { name: usage_role, usage_role, ..Integration::local() });
    }
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "integration");
    db.client()
        .batch_execute(&format!(
            "CREATE FUNCTION lends(integration text) RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql
             AS $$ BEGIN RETURN num_docs_inserted FROM {call}; END $$;
             ALTER FUNCTION lends(text) OWNER TO {owner}"
        ))
        .unwrap();
    let mut client = db.client_as(&caller);
    assert_eq!(client.text(&format!("SELECT lends('{owner}')")), "1");
    refused(client.query(&format!("SELECT lends('{caller}')"), &[])).sqlstate("42704");
    exports(&db, &mut client, &caller).unwrap();
    refused(exports(&db, &mut client, &owner)).sqlstate("42704");
}

/// Who dropped his privileges before he exports a stranger's query must not lose the gain.
#[test]
fn attack_a_query_that_becomes_somebody_else() {
    let db = Database::new("becomes");
    let (analyst, other) = (db.role("analyst", &["s3_export_member"]), db.role("other", &[]));
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "GRANT {other} TO {analyst};
             CREATE TABLE closed AS SELECT 'top secret' AS a;
             CREATE FUNCTION become(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SET ROLE ' || name; RETURN current_user; END $$"
        ))
        .unwrap();
    let attempts = [
        "SELECT set_config('role', 'postgres', false) AS a".to_owned(),
        "SELECT set_config('role', 'none', false) AS a".to_owned(),
        format!("SELECT set_config('role', '{other}', false) AS a"),
        "SELECT set_config('session_authorization', 'postgres', false) AS a".to_owned(),
        "SELECT become('none') AS a, query_to_xml('SELECT * FROM closed', true, true, '')::text AS b".to_owned(),
    ];
    superuser.batch_execute(&format!("SET ROLE {analyst}")).unwrap();
    for mut client in [db.client_as(&analyst), superuser] {
        for attempt in &attempts {
            let prefix = db.prefix();
            refused(db.export_to(&mut client, &prefix, attempt, "")).sqlstate("42501");
            db.bucket.nothing_left(&prefix);
            assert_eq!(client.text("SELECT current_user"), analyst);
        }
        // And afterwards the session is as free as before.
        client.batch_execute("RESET ROLE").unwrap();
    }
}

/// Column grants, row-level security and security-barrier views hold for the query as if its caller had run it himself.
#[test]
fn attack_a_query_that_reads_what_its_caller_may_not() {
    let db = Database::new("reads");
    let analyst = db.role("analyst", &["s3_export_member"]);
    db.client()
        .batch_execute(&format!(
            "CREATE TABLE people (id int, name text, salary int, team text);
             INSERT INTO people VALUES (1, 'Ada', 100, 'red'), (2, 'Bob', 200, 'blue'), (3, 'Eve', 300, 'red');
             GRANT SELECT (id, name, team) ON people TO {analyst};
             ALTER TABLE people ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own_team ON people TO {analyst} USING (team = current_setting('app.team'));
             CREATE TABLE hidden AS SELECT generate_series(1, 5) AS n;
             CREATE VIEW small WITH (security_barrier) AS SELECT n FROM hidden WHERE n < 3;
             GRANT SELECT ON small TO {analyst};
             CREATE FUNCTION leak(int) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE WARNING 'leaked %', $1; RETURN true; END $$"
        ))
        .unwrap();
    let mut client = db.client_as(&analyst);
    client.batch_execute("SET app.team = 'red'").unwrap();
    let exported = db.export_in(&mut client, "SELECT id, name FROM people ORDER BY id", "").unwrap();
    assert_eq!(db.bucket.documents(&exported.prefix), [r#"{"id":1,"name":"Ada"}"#, r#"{"id":3,"name":"Eve"}"#]);
    refused(db.export_in(&mut client, "SELECT salary FROM people", "")).sqlstate("42501");
    refused(db.export_in(&mut client, "SELECT * FROM people", "")).sqlstate("42501");
    refused(db.export_in(&mut client, "SELECT * FROM hidden", "")).sqlstate("42501");
    client.notices();
    assert_eq!(db.export_in(&mut client, "SELECT n FROM small WHERE leak(n)", "").unwrap().documents, 2);
    let leaks = super::fixture::messages(&client.notices());
    assert!(leaks.contains("leaked 2") && !leaks.contains("leaked 3"), "{leaks}");
}
