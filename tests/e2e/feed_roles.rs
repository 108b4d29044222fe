//! Feeds: who may do what, and whose rights a query has.

use super::feed_admin::creating;
use super::feeds::{BY_XID, create, run, table};
use super::fixture::{Database, Session, literal, refused};

/// A role that may make feeds on `orders` and tables of its own.
fn member(db: &Database, name: &str) -> String {
    let role = db.role(name, &["s3_export_member"]);
    db.client().batch_execute(&format!("GRANT SELECT ON orders TO {role}; GRANT CREATE ON SCHEMA public TO {role}")).unwrap();
    role
}

fn sqlstate(client: &mut Session, call: &str) -> String {
    client.batch_execute("BEGIN").unwrap();
    let outcome = client.query(call, &[]);
    let state = outcome.err().map_or_else(|| "done".to_owned(), |error| error.as_db_error().unwrap().code().code().to_owned());
    client.batch_execute("ROLLBACK").unwrap();
    state
}

#[test]
fn only_the_role_of_a_feed_runs_and_alters_it_and_only_its_members_drop_and_rewind_it() {
    let db = Database::new("feed_roles");
    let mut superuser = db.client();
    table(&mut superuser, "orders");
    superuser.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    let owner = member(&db, "owner");
    let deputy = db.role("deputy", &[&owner]);
    let other = member(&db, "other");
    superuser.batch_execute(&format!("ALTER ROLE {other} BYPASSRLS")).unwrap();
    let admin = db.role("admin", &["s3_export_admin"]);
    let plain = db.role("plain", &[]);
    let reader = db.role("reader", &["pg_read_all_data", "pg_write_all_data"]);
    db.client_as(&owner).batch_execute(&create(&db, &db.prefix(), "xid", "")).unwrap();

    let query = literal(&format!("SELECT a FROM orders WHERE {BY_XID}"));
    let create_another = format!(
        "SELECT s3_export.create_feed('g', '{}', 'local', {query}, 'xid', 'orders.changed_in')",
        db.bucket.uri(&db.prefix())
    );
    let calls = [
        "SELECT 1 / count(*) FROM s3_export.feeds",
        create_another.as_str(),
        "SELECT s3_export.run_feed('xid')",
        "SELECT s3_export.run_feed_async('xid')",
        r#"SELECT s3_export.alter_feed('xid', '{"lag": "1s"}')"#,
        "SELECT s3_export.rewind_feed('xid', 'start')",
        "SELECT s3_export.drop_feed('xid')",
        "SELECT s3_export.feed_setup('orders.b')",
        "SELECT 1 / count(*) FROM s3_export.feed_definitions",
        "WITH done AS (UPDATE s3_export.feed_definitions SET query = 'x' RETURNING 1) SELECT 1 / count(*) FROM done",
    ];
    for (who, expected) in [
        //                    see    create run   async alter rewind drop  setup read  write
        ("postgres", "        done  done  42501 42501 42501 done  done  done  done  done"),
        (owner.as_str(), "    done  done  done  done  done  done  done  done  42501 42501"),
        (&deputy, "           done  done  42501 42501 42501 done  done  done  42501 42501"),
        (&other, "            22012 done  42704 42704 42704 42704 42704 done  42501 42501"),
        (&admin, "            done  42501 42501 42501 42501 42501 42501 42501 42501 42501"),
        (&plain, "            42501 42501 42501 42501 42501 42501 42501 42501 42501 42501"),
        (&reader, "           22012 42501 42501 42501 42501 42501 42501 42501 22012 22012"),
    ] {
        let mut client = db.client_as(who);
        let found: Vec<String> = calls.iter().map(|call| sqlstate(&mut client, call)).collect();
        assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>(), "{who}");
    }
    // SET ROLE is the way of a deputy, and of a superuser.
    for who in [deputy.as_str(), "postgres"] {
        let mut client = db.client_as(who);
        client.batch_execute(&format!("SET ROLE {owner}")).unwrap();
        assert_eq!(sqlstate(&mut client, "SELECT s3_export.run_feed('xid')"), "done");
    }

    // A role that lost its rights, or its name, runs nothing; a new role of the old name has no feed.
    let mut client = db.client_as(&owner);
    superuser.batch_execute(&format!("REVOKE SELECT ON orders FROM {owner}")).unwrap();
    assert_eq!(sqlstate(&mut client, "SELECT s3_export.run_feed('xid')"), "42501");
    superuser.batch_execute(&format!("GRANT SELECT ON orders TO {owner}; ALTER ROLE {owner} RENAME TO {owner}_2")).unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("42501").hint("was called");
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {owner} LOGIN; GRANT s3_export_member TO {owner}; GRANT SELECT ON orders TO {owner}"
        ))
        .unwrap();
    let mut impostor = db.client_as(&owner);
    assert_eq!(sqlstate(&mut impostor, "SELECT s3_export.run_feed('xid')"), "42704");
    assert_eq!(sqlstate(&mut impostor, "SELECT 1 / count(*) FROM s3_export.feeds"), "22012");
    drop(impostor);
    superuser
        .batch_execute(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}; ALTER ROLE {owner}_2 RENAME TO {owner}"))
        .unwrap();
    client.batch_execute("SELECT s3_export.run_feed('xid')").unwrap();
}

#[test]
fn attack_code_of_a_feed_never_has_the_rights_of_another_role() {
    let db = Database::new("feed_attack");
    let mut superuser = db.client();
    table(&mut superuser, "orders");
    let attacker = member(&db, "attacker");
    let deputy = db.role("deputy", &[&attacker]);
    let mut client = db.client_as(&attacker);
    // Whoever evaluates the function leaves a trace of who it was: in its query, an index, a policy, a constraint.
    client
        .batch_execute(
            "CREATE TABLE trace (who name); GRANT INSERT ON trace TO PUBLIC;
             CREATE FUNCTION note() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN INSERT INTO public.trace VALUES (current_user); RETURN 1; END $$;
             CREATE FUNCTION trap(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.note(); END $$;
             CREATE TABLE bait (a int NOT NULL DEFAULT 1)",
        )
        .unwrap();
    let statements = client.text("SELECT s3_export.feed_setup('bait.changed_in')");
    client.batch_execute(&statements).unwrap();
    client
        .batch_execute(
            "INSERT INTO bait DEFAULT VALUES; CREATE INDEX ON bait ((trap(1) + a));
             CREATE POLICY p ON bait USING (trap(1) = 1); ALTER TABLE bait ENABLE ROW LEVEL SECURITY; ALTER TABLE bait FORCE ROW LEVEL SECURITY",
        )
        .unwrap();
    let query = literal(&format!("SELECT note() AS a FROM bait WHERE {BY_XID}"));
    client
        .batch_execute(&format!(
            "SELECT s3_export.create_feed('bait', '{}', 'local', {query}, 'xid', 'bait.changed_in', wrap_types => false)",
            db.bucket.uri(&db.prefix())
        ))
        .unwrap();
    for who in ["postgres", deputy.as_str()] {
        let mut victim = db.client_as(who);
        for call in ["run_feed('bait')", "run_feed_async('bait')", r#"alter_feed('bait', '{"lag": "1s"}')"#] {
            refused(victim.query(&format!("SELECT s3_export.{call}"), &[])).sqlstate("42501");
        }
        let _ = victim.batch_execute("SELECT s3_export.rewind_feed('bait', 'start')");
        let _ = victim.batch_execute("SELECT s3_export.feed_setup('bait.other')");
        victim.batch_execute("TABLE s3_export.feeds").unwrap();
    }
    client.batch_execute("SELECT s3_export.run_feed('bait')").unwrap();
    let seen = superuser.text("SELECT string_agg(DISTINCT who, ',') FROM trace");
    assert_eq!(seen, attacker, "the attacker's code ran as others");

    // Functions and operators of the session's own search_path do not get in between.
    client
        .batch_execute(
            "CREATE FUNCTION public.to_regclass(text) RETURNS regclass LANGUAGE sql AS $$ SELECT 'public.trace'::regclass $$;
             CREATE FUNCTION public.parse_ident(text) RETURNS text[] LANGUAGE sql AS $$ SELECT ARRAY['x', 'y'] $$;
             CREATE FUNCTION public.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;
             CREATE FUNCTION public.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$ SELECT '7'::xid8 $$",
        )
        .unwrap();
    superuser.batch_execute("SET search_path = public, pg_catalog").unwrap();
    assert!(superuser.text("SELECT s3_export.feed_setup('orders.c')").starts_with("ALTER TABLE public.orders ADD"));
    // A default that only looks like Postgres's own is none.
    superuser
        .batch_execute(
            "CREATE TABLE lookalike (a int, changed_in xid8 NOT NULL DEFAULT public.pg_current_xact_id());
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.changed_in := pg_catalog.pg_current_xact_id(); RETURN NEW; END $$;
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON lookalike FOR EACH ROW EXECUTE FUNCTION f()",
        )
        .unwrap();
    let call = creating(&db, &[("mark_column", "'lookalike.changed_in'")], "");
    refused(superuser.query(&call, &[])).sqlstate("55000").message("default");
}

#[test]
fn attack_a_trigger_on_the_table_of_feeds_stops_every_write() {
    let db = Database::new("feed_planted");
    let mut client = db.client();
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "xid", "")).unwrap();
    client.batch_execute("CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$").unwrap();
    for trigger in [
        "CREATE TRIGGER planted BEFORE UPDATE OR DELETE ON s3_export.feed_definitions FOR EACH ROW EXECUTE FUNCTION planted()",
        "CREATE OR REPLACE TRIGGER resolve_feed_role BEFORE INSERT OR UPDATE OF role ON s3_export.feed_definitions
             FOR EACH ROW EXECUTE FUNCTION planted()",
    ] {
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(trigger).unwrap();
        for call in
            ["run_feed('xid')", r#"alter_feed('xid', '{"lag": "1s"}')"#, "rewind_feed('xid', 'start')", "drop_feed('xid')"]
        {
            client.batch_execute("SAVEPOINT s").unwrap();
            refused(client.query(&format!("SELECT s3_export.{call}"), &[])).sqlstate("55000").message("not the extension's");
            client.batch_execute("ROLLBACK TO s").unwrap();
        }
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(run(&db, &mut client, "xid"), [] as [i64; 0]);
}
