//! Who may see, use and change an integration: plain GRANTs and row-level security.

use super::fixture::{Database, Integration, Session, messages, refused};

fn exports(db: &Database, client: &mut Session, integration: &str) -> Result<(), postgres::Error> {
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", &format!("'{integration}'"));
    client.batch_execute(&format!("SELECT {call}"))
}

/// Names of the integrations that the session sees.
fn visible(client: &mut Session) -> String {
    client.text("SELECT string_agg(name, ',' ORDER BY name) FROM s3_export.integrations")
}

const CREATE: &str = "SELECT s3_export.create_integration('mine', access_key_id => 'K', secret_access_key => 'S',
                      allowed_locations => '{s3://exports}', region => 'eu-1'";

#[test]
fn a_member_exports_as_himself_by_what_he_may_use() {
    let db = Database::new("member");
    let analyst = db.role("analyst", &["s3_export_member"]);
    let mut client = db.client_as(&analyst);
    db.client()
        .batch_execute(&format!(
            "CREATE TABLE open AS SELECT 1 AS a; CREATE TABLE closed AS SELECT 2 AS a; GRANT SELECT ON open TO {analyst}"
        ))
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT a, current_user AS u FROM open", "").unwrap();
    assert_eq!(db.bucket.values(&exported.prefix)[0]["u"], analyst);
    refused(db.export_in(&mut client, "TABLE closed", "")).sqlstate("42501").message("permission denied for table closed");
}

#[test]
fn members_see_the_integrations_whose_usage_role_they_have() {
    let db = Database::new("usage_role");
    let (team, other) = (db.role("team", &[]), db.role("other", &[]));
    let analyst = db.role("analyst", &["s3_export_member", &team]);
    for (name, usage_role) in [("of-team", &*team), ("of-other", &*other), ("of-all", "public"), ("of-nobody", "public")] {
        db.create(&Integration { name, usage_role, ..Integration::local() });
    }
    let mut superuser = db.client();
    superuser.batch_execute("UPDATE s3_export.integrations SET usage_role = 'no_such_role' WHERE name = 'of-nobody'").unwrap();
    assert!(messages(&superuser.notices()).contains("role \"no_such_role\""));
    let mut client = db.client_as(&analyst);
    assert_eq!(visible(&mut client), "local,of-all,of-team");
    exports(&db, &mut client, "of-team").unwrap();
    exports(&db, &mut client, "of-all").unwrap();
    refused(exports(&db, &mut client, "of-other")).sqlstate("42704");
    refused(exports(&db, &mut client, "of-nobody")).sqlstate("42704");
    // A dropped role takes its integrations out of sight, and no others.
    db.client().batch_execute(&format!("DROP ROLE {team}")).unwrap();
    assert_eq!(visible(&mut client), "local,of-all");
    refused(exports(&db, &mut client, "of-team")).sqlstate("42704");
    assert_eq!(visible(&mut db.client()), "local,of-all,of-nobody,of-other,of-team");
}

#[test]
fn membership_without_inheritance_is_used_by_set_role_only() {
    let db = Database::new("noinherit");
    let role = db.role("cautious", &[]);
    // In this order: since Postgres 16, what a grant inherits is settled when it is made.
    db.client().batch_execute(&format!("ALTER ROLE {role} NOINHERIT; GRANT s3_export_member TO {role}")).unwrap();
    let mut client = db.client_as(&role);
    refused(exports(&db, &mut client, "local")).sqlstate("42501");
    client.batch_execute("SET ROLE s3_export_member").unwrap();
    exports(&db, &mut client, "local").unwrap();
}

#[test]
fn members_read_no_key_ids_and_change_nothing() {
    let db = Database::new("member_columns");
    let mut client = db.client_as(&db.role("analyst", &["s3_export_member"]));
    for column in ["access_key_id", "aws_external_id", "*"] {
        refused(client.query(&format!("SELECT {column} FROM s3_export.integrations"), &[])).sqlstate("42501");
    }
    let others = "SELECT integration_id::text, name, owner::text, owner_oid, usage_role::text, usage_role_oid, enabled, credential_source, aws_profile, aws_role, sts_endpoint,
        region, endpoint, path_style, allowed_locations, expected_bucket_owner, sse, kms_key_id, storage_class, object_acl, checksum,
        created_at::text, updated_at::text, tags::text, object_lock_mode, object_lock_days, kms_encryption_context::text, bucket_key,
        requester_pays, max_documents, max_bytes, max_bytes_per_day, fips, dual_stack FROM s3_export.integrations";
    assert_eq!(client.query(others, &[]).unwrap().len(), 1);
    for statement in [
        "UPDATE s3_export.integrations SET enabled = false",
        "DELETE FROM s3_export.integrations",
        "INSERT INTO s3_export.integrations (name, allowed_locations) VALUES ('x', '{s3://}')",
        "TRUNCATE s3_export.integrations CASCADE",
        "SELECT s3_export.set_credentials('local', 'K', 'S')",
        "SELECT s3_export.create_integration('x')",
        "SELECT * FROM s3_export.credentials",
    ] {
        refused(client.batch_execute(statement)).sqlstate("42501");
    }
}

#[test]
fn reading_all_data_does_not_read_credentials() {
    let db = Database::new("read_all");
    let mut client = db.client_as(&db.role("reader", &["pg_read_all_data"]));
    assert_eq!(client.text("SELECT count(*) FROM s3_export.credentials"), "0");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.integrations"), "0");
    let mut writer = db.client_as(&db.role("writer", &["pg_write_all_data", "pg_read_all_data"]));
    writer.batch_execute("UPDATE s3_export.credentials SET sealed = ''; DELETE FROM s3_export.credentials").unwrap();
    writer.batch_execute("UPDATE s3_export.integrations SET endpoint = 'https://evil.example'").unwrap();
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
}

#[test]
fn an_admin_makes_sees_and_changes_his_own_only() {
    let db = Database::new("admin");
    let mut client = db.client_as(&db.role("admin", &["s3_export_admin"]));
    let mut rival = db.client_as(&db.role("rival", &["s3_export_admin"]));
    client.batch_execute(&format!("{CREATE})")).unwrap();
    assert_eq!(visible(&mut client), "mine");
    assert_eq!(visible(&mut rival), "");
    assert_eq!(client.text("SELECT owner = current_user AND usage_role = current_user FROM s3_export.integrations"), "t");
    assert_eq!(client.execute("UPDATE s3_export.integrations SET region = 'eu-2'", &[]).unwrap(), 1);
    assert_eq!(rival.execute("UPDATE s3_export.integrations SET region = 'eu-3'", &[]).unwrap(), 0);
    assert_eq!(rival.execute("DELETE FROM s3_export.integrations", &[]).unwrap(), 0);
    refused(rival.batch_execute("SELECT s3_export.set_credentials('mine', 'K', 'S')")).sqlstate("42704");
    refused(rival.batch_execute(&format!("{CREATE})"))).sqlstate("42710");
    refused(client.batch_execute("UPDATE s3_export.integrations SET owner = 'postgres'")).sqlstate("42501");
    refused(client.batch_execute("SELECT * FROM s3_export.credentials")).sqlstate("42501");
    client.batch_execute("SELECT s3_export.set_credentials('mine', 'K2', 'S2')").unwrap();
    assert_eq!(client.text("SELECT access_key_id FROM s3_export.owned_identifiers"), "K2");
    assert_eq!(rival.text("SELECT count(*) FROM s3_export.owned_identifiers"), "0");
    assert_eq!(client.execute("DELETE FROM s3_export.integrations", &[]).unwrap(), 1);
    assert_eq!(visible(&mut db.client()), "local");
}

/// The maker of a role that exists beforehand can grant that role, and so all that the extension gives to it.
#[test]
fn roles_that_are_there_before_the_extension_are_told_of_with_who_may_grant_them() {
    let db = Database::empty("adopted", "");
    let (maker, giver, member) = (db.role("maker", &[]), db.role("giver", &[]), db.role("member", &["s3_export_member"]));
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!("ALTER ROLE {maker} CREATEROLE; GRANT s3_export_admin TO {giver} WITH ADMIN OPTION"))
        .unwrap();
    superuser.notices();
    superuser.batch_execute("CREATE EXTENSION s3_export").unwrap();
    let said = superuser.notices();
    let warning = |role: &str| {
        let begin = format!("role \"{role}\" exists already");
        said.iter().find(|notice| notice.message().starts_with(&begin)).and_then(|notice| notice.detail()).unwrap().to_owned()
    };
    let (before, members) =
        warning("s3_export_admin").split_once("Its members").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(before.contains(&giver) && members.contains(&giver), "{said:?}");
    assert_eq!(before.contains(&maker), db.major() < 16, "CREATEROLE grants any role before 16: {said:?}");
    assert!(warning("s3_export_member").contains(&member));
}

/// The row names the old name, so no policy showed it to its owner.
#[test]
fn an_owner_who_was_renamed_takes_its_integrations_back() {
    let db = Database::new("renamed");
    let (owner, rival) = (db.role("owner", &["s3_export_admin", "s3_export_member"]), db.role("rival", &["s3_export_admin"]));
    // A name that the fixture knows too, and drops.
    let renamed = db.role("renamed", &[]);
    db.client_as(&owner).batch_execute(&format!("{CREATE})")).unwrap();
    let mut superuser = db.client();
    superuser.batch_execute(&format!("DROP ROLE {renamed}; ALTER ROLE {owner} RENAME TO {renamed}")).unwrap();
    let (mut client, mut rival) = (db.client_as(&renamed), db.client_as(&rival));
    let reclaim = "SELECT s3_export.reclaim_integrations()";
    assert_eq!(visible(&mut client), "local");
    assert_eq!(rival.text(reclaim), "0", "it is not the rival's");
    // While somebody else has the old name, nobody but a superuser can say whose the row is.
    superuser.batch_execute(&format!("CREATE ROLE {owner} LOGIN; GRANT s3_export_admin TO {owner}")).unwrap();
    assert_eq!(client.text(reclaim), "0");
    let mut usurper = db.client_as(&owner);
    assert_eq!(usurper.text(reclaim), "0");
    assert_eq!(visible(&mut usurper), "");
    superuser.batch_execute(&format!("DROP ROLE {owner}")).unwrap();
    assert_eq!(client.text(reclaim), "1");
    assert_eq!(client.text(reclaim), "0");
    // And the rest is the owner's to write, a new owner included.
    client.batch_execute(&format!("UPDATE s3_export.integrations SET usage_role = '{renamed}' WHERE name = 'mine'")).unwrap();
    assert_eq!(visible(&mut client), "local,mine");
    refused(db.client_as(&db.role("member", &["s3_export_member"])).query(reclaim, &[])).sqlstate("42501");
}

/// Rows that come without the triggers bring the OIDs of the cluster that they come from, which are somebody else's here.
#[test]
fn nobody_takes_an_integration_whose_owner_was_resolved_in_another_cluster() {
    let db = Database::new("foreign_owner");
    let stranger = db.role("stranger", &["s3_export_admin", "s3_export_member"]);
    let mut superuser = db.client();
    let restored = |name: &str, cluster: &str| {
        format!(
            "SET session_replication_role = 'replica';
             INSERT INTO s3_export.integrations (name, owner, owner_oid, owner_cluster, allowed_locations)
                 VALUES ('{name}', 'of_elsewhere', '{stranger}'::regrole::oid, {cluster}, '{{s3://exports}}');
             RESET session_replication_role"
        )
    };
    superuser.batch_execute(&restored("foreign", "1")).unwrap();
    superuser.batch_execute(&restored("unknown", "NULL")).unwrap();
    let mut client = db.client_as(&stranger);
    assert_eq!(client.text("SELECT s3_export.reclaim_integrations()"), "0");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.owned_identifiers"), "0");
    // Nor does an administrator say where its own rows come from.
    client.batch_execute(&format!("{CREATE})")).unwrap();
    let known = "SELECT owner_cluster = (SELECT system_identifier FROM pg_control_system()) FROM s3_export.integrations WHERE name = 'mine'";
    assert_eq!(superuser.text(known), "t");
    client.batch_execute("UPDATE s3_export.integrations SET owner_cluster = 7 WHERE name = 'mine'").unwrap();
    assert_eq!(superuser.text(known), "t");
}

#[test]
fn plain_http_and_the_servers_own_credentials_need_a_superuser() {
    let db = Database::new("superuser_only");
    let mut client = db.client_as(&db.role("admin", &["s3_export_admin"]));
    let http = format!("{CREATE}, endpoint => 'http://127.0.0.1:9000')");
    refused(client.batch_execute(&http)).sqlstate("42501").message("superuser").detail("unencrypted");
    for columns in [
        "endpoint, region) VALUES ('x', '{s3://}', 'http://x', 'eu-1'",
        "sts_endpoint, region) VALUES ('x', '{s3://}', 'http://x', 'eu-1'",
        "credential_source, region) VALUES ('x', '{s3://}', 'ambient', 'eu-1'",
        "credential_source, region) VALUES ('x', '{s3://}', 'profile', 'eu-1'",
    ] {
        let insert = format!("INSERT INTO s3_export.integrations (name, allowed_locations, {columns})");
        refused(client.batch_execute(&insert)).sqlstate("42501").message("superuser_needed_to_insert");
    }
    client.batch_execute(&format!("{CREATE}, endpoint => 'https://s3.example.com')")).unwrap();
    for change in
        ["endpoint = 'http://x'", "sts_endpoint = 'http://x'", "credential_source = 'ambient'", "credential_source = 'profile'"]
    {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {change}")))
            .sqlstate("42501")
            .message("superuser_needed_to_update");
    }
}

#[test]
fn a_security_definer_function_lends_its_owners_integration() {
    let db = Database::new("definer");
    let (owner, caller) = (db.role("owner", &["s3_export_member"]), db.role("caller", &[]));
    db.create(&Integration { name: "lent", usage_role: &owner, ..Integration::local() });
    let call = db.call(&db.prefix(), "SELECT current_user AS u", "").replace("'local'", "'lent'");
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "CREATE FUNCTION lends() RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS $$ BEGIN RETURN num_docs_inserted FROM {call}; END $$;
             ALTER FUNCTION lends() OWNER TO {owner}"
        ))
        .unwrap();
    assert_eq!(db.client_as(&caller).text("SELECT lends()"), "1");
}
