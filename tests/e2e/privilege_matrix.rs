//! Who may do what, cell by cell.
//!
//! `yes`: it is done. `no`: the row is not there for this role. `42501`: permission denied. `sent`: allowed and on its way, to
//! an endpoint in the server's own network, where no integration of an administrator's may go.

use super::fixture::{Database, Integration, Session, StandIn, literal};

const ACTIONS: [&str; 11] =
    ["list", "export", "inline", "create", "alter", "drop", "credentials", "history", "forget", "verify", "dry run"];

/// Outcome of each action for `client` on the integration `target`; every action is rolled back. `manifest`: that of an export.
fn row(db: &Database, client: &mut Session, target: &str, manifest: &str) -> String {
    let prefix = db.prefix();
    let export = db.call(&prefix, "SELECT 1 AS a", "").replace("'local'", &literal(target));
    let StandIn { role, external_id, .. } = StandIn::ministack();
    let statements = [
        format!("SELECT count(*) FROM s3_export.integrations WHERE name = '{target}'"),
        format!("SELECT num_docs_inserted FROM {export}"),
        format!(
            "SELECT num_docs_inserted FROM s3_export_with_role('{}', '{role}', '{external_id}', 'SELECT 1 AS a')",
            db.bucket.uri(&prefix)
        ),
        "SELECT count(*) FROM s3_export.create_integration('new', access_key_id => 'K', secret_access_key => 'S',
             allowed_locations => '{s3://exports}', region => 'eu-1')"
            .to_owned(),
        format!(
            "WITH done AS (UPDATE s3_export.integrations SET region = 'eu-2' WHERE name = '{target}' RETURNING name) SELECT count(*) FROM done"
        ),
        format!(
            "WITH done AS (DELETE FROM s3_export.integrations WHERE name = '{target}' RETURNING name) SELECT count(*) FROM done"
        ),
        "SELECT least(count(*), 1) FROM s3_export.credentials".to_owned(),
        "SELECT least(count(*), 1) FROM s3_export.history".to_owned(),
        "SELECT s3_export.prune_history('1 day') + 1".to_owned(),
        format!("SELECT least(count(*), 1) FROM s3_export.verify({}, {})", literal(manifest), literal(target)),
        format!("SELECT least(count(*), 1) FROM {}", export.replacen("s3_export(", "s3_export.dry_run(", 1)),
    ];
    let mut cells = Vec::new();
    for statement in statements {
        client.batch_execute("BEGIN").unwrap();
        cells.push(match client.query_one(&statement, &[]) {
            Ok(row) if row.get::<_, i64>(0) == 1 => "yes".to_owned(),
            Ok(_) => "no".to_owned(),
            Err(error) => {
                let error = error.as_db_error().unwrap();
                match error.code().code() {
                    "42704" => "no".to_owned(),
                    _ if error.message().contains("may not connect") => "sent".to_owned(),
                    other => other.to_owned(),
                }
            }
        });
        client.batch_execute("ROLLBACK").unwrap();
    }
    cells.join(" ")
}

#[test]
fn each_role_may_do_exactly_what_it_was_granted() {
    let db = Database::new("matrix");
    let mut superuser = db.client();
    let StandIn { endpoint, role, .. } = StandIn::ministack();
    let inline = format!(
        r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports"], "endpoint": "{endpoint}", "sts_endpoint": "{endpoint}", "path_style": true}}]"#
    );
    superuser.batch_execute(&format!("ALTER DATABASE {} SET s3_export.inline_roles = {}", db.name, literal(&inline))).unwrap();
    let team = db.role("team", &[]);
    let admin = db.role("admin", &["s3_export_admin"]);
    let both = db.role("both", &["s3_export_admin", "s3_export_member"]);
    let with_usage = db.role("with_usage", &["s3_export_member", &team]);
    let without_usage = db.role("without_usage", &["s3_export_member"]);
    let usage_only = db.role("usage_only", &[&team]);
    let reader = db.role("reader", &["pg_read_all_data"]);
    let reading_member = db.role("reading_member", &["pg_read_all_data", "s3_export_member"]);
    let plain = db.role("plain", &[]);
    let auditor = db.role("auditor", &["s3_export_auditor"]);
    db.export("SELECT 1 AS a");
    let phoenix = db.role("phoenix", &["s3_export_admin", "s3_export_member"]);
    db.create(&Integration { name: "target", usage_role: &team, ..Integration::local() });
    for (name, owner) in [("of-admin", &admin), ("of-both", &both), ("of-phoenix", &phoenix)] {
        let endpoint = "https://localhost:1".to_owned();
        db.create(&Integration { name, usage_role: owner, endpoint, ..Integration::local() });
        superuser.execute("UPDATE s3_export.integrations SET owner = $1::text::name WHERE name = $2", &[owner, &name]).unwrap();
    }

    let manifest = db.export("SELECT 1 AS a").manifest;
    let row = |client: &mut Session, target: &str| row(&db, client, target, &manifest);
    assert_eq!(row(&mut db.client_as(&phoenix), "of-phoenix"), "yes sent 42501 yes yes yes 42501 yes 42501 sent yes");
    superuser
        .batch_execute(&format!(
            "DROP ROLE {phoenix}; CREATE ROLE {phoenix} LOGIN; GRANT s3_export_admin, s3_export_member TO {phoenix}"
        ))
        .unwrap();

    for (who, role, target, expected) in [
        // list export inline create alter drop credentials history forget verify dry-run
        ("superuser", "postgres", "target", "yes yes yes yes yes yes yes yes yes yes yes"),
        ("superuser on an admin's", "postgres", "of-both", "yes sent yes yes yes yes yes yes yes sent yes"),
        ("admin on its own", &admin, "of-admin", "yes 42501 42501 yes yes yes 42501 yes 42501 sent 42501"),
        ("admin on another's", &admin, "target", "no 42501 42501 yes no no 42501 yes 42501 no 42501"),
        ("admin and member, own", &both, "of-both", "yes sent 42501 yes yes yes 42501 yes 42501 sent yes"),
        ("admin and member, other's", &both, "target", "no no 42501 yes no no 42501 yes 42501 no no"),
        ("member with usage", &with_usage, "target", "yes yes 42501 42501 42501 42501 42501 no 42501 yes yes"),
        ("member without usage", &without_usage, "target", "no no 42501 42501 42501 42501 42501 no 42501 no no"),
        ("usage, no member", &usage_only, "target", "42501 42501 42501 42501 42501 42501 42501 42501 42501 42501 42501"),
        ("pg_read_all_data", &reader, "target", "no 42501 42501 42501 42501 42501 no no 42501 42501 42501"),
        ("pg_read_all_data and member", &reading_member, "target", "no no 42501 42501 42501 42501 no no 42501 no no"),
        ("plain role", &plain, "target", "42501 42501 42501 42501 42501 42501 42501 42501 42501 42501 42501"),
        ("auditor", &auditor, "target", "42501 42501 42501 42501 42501 42501 42501 yes 42501 42501 42501"),
        ("dropped and recreated", &phoenix, "of-phoenix", "no no 42501 yes no no 42501 yes 42501 no no"),
    ] {
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let found = row(&mut db.client_as(role), target);
        let found: Vec<&str> = found.split(' ').collect();
        for (action, (found, expected)) in ACTIONS.iter().zip(found.iter().zip(&expected)) {
            assert_eq!(found, expected, "{who}: {action}");
        }
        assert_eq!((found.len(), expected.len()), (ACTIONS.len(), ACTIONS.len()));
    }

    // Only whoever writes the name once more lends it to the new role.
    superuser.batch_execute("UPDATE s3_export.integrations SET enabled = true WHERE name = 'of-phoenix'").unwrap();
    assert!(row(&mut db.client_as(&phoenix), "of-phoenix").starts_with("no no"));
    superuser
        .batch_execute("UPDATE s3_export.integrations SET owner = owner, usage_role = usage_role WHERE name = 'of-phoenix'")
        .unwrap();
    assert!(row(&mut db.client_as(&phoenix), "of-phoenix").starts_with("yes sent"));
}
