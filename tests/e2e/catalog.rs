//! The catalog of integrations: what can be made, changed and dropped, and what is refused.

use super::fixture::{Database, Integration, Refusal, refused};

/// Arguments of create_integration, over those that every call needs.
fn create(db: &Database, arguments: &str) -> Result<(), postgres::Error> {
    let given = |name: &str| arguments.contains(&format!("{name} =>"));
    let mut all = arguments.to_owned();
    for (name, value) in [
        ("access_key_id", "'K'"),
        ("secret_access_key", "'S'"),
        ("allowed_locations", "'{s3://exports}'"),
        ("region", "'eu-1'"),
    ] {
        if !given(name) {
            all = format!("{all}{}{name} => {value}", if all.is_empty() { "" } else { ", " });
        }
    }
    let name = if given("name") { "" } else { "name => 'new', " };
    db.client().batch_execute(&format!("SELECT s3_export.create_integration({name}{all})"))
}

#[track_caller]
fn refuse(db: &Database, arguments: &str) -> Refusal {
    let outcome = create(db, arguments);
    assert!(outcome.is_err(), "accepted: {arguments}");
    let refusal = refused(outcome);
    assert_eq!(db.client().text("SELECT count(*) FROM s3_export.integrations WHERE name <> 'local'"), "0");
    assert_eq!(db.client().text("SELECT count(*) FROM s3_export.credentials"), "1");
    refusal
}

#[test]
fn create_integration_stores_what_it_is_given() {
    let db = Database::new("create");
    create(
        &db,
        r#"session_token => 'T', region => 'eu-central-1', endpoint => 'https://s3.example.com:9000', path_style => true,
           allowed_locations => '{s3://a-bucket,s3://b-bucket/x}', usage_role => 'public',
           options => '{"checksum": "sha256", "enabled": false, "expected_bucket_owner": "012345678901", "sse": "aws:kms",
                        "kms_key_id": "my-key", "max_documents": 10, "max_bytes": 9223372036854775807, "object_acl": "bucket-owner-full-control", "storage_class": "STANDARD_IA"}'"#,
    )
    .unwrap();
    let mut client = db.client();
    assert_eq!(
        client.text(
            "SELECT (name, owner, usage_role, enabled, credential_source, access_key_id, region, endpoint, path_style, allowed_locations,
                     expected_bucket_owner, sse, kms_key_id, storage_class, object_acl, checksum, max_documents, max_bytes)::text
             FROM s3_export.integrations WHERE name = 'new'"
        ),
        r#"(new,postgres,public,f,keys,K,eu-central-1,https://s3.example.com:9000,t,"{s3://a-bucket,s3://b-bucket/x}",012345678901,aws:kms,my-key,STANDARD_IA,bucket-owner-full-control,sha256,10,9223372036854775807)"#
    );
    let sealed = "SELECT key_id, encode(sealed, 'escape') AS sealed FROM s3_export.credentials JOIN s3_export.integrations
                  USING (integration_id) WHERE name = 'new'";
    let row = client.query_one(sealed, &[]).unwrap();
    assert_eq!(row.get::<_, &str>("key_id"), "k1");
    assert!(!row.get::<_, &str>("sealed").contains("secret_access_key"));
}

#[test]
fn the_default_is_an_enabled_integration_for_its_creator() {
    let db = Database::new("create_defaults");
    create(&db, "").unwrap();
    assert_eq!(
        db.client().text(
            "SELECT (owner, usage_role, enabled, credential_source, endpoint, path_style, checksum, sse, storage_class)::text
             FROM s3_export.integrations WHERE name = 'new'"
        ),
        "(postgres,postgres,t,keys,,f,crc32,,)"
    );
}

#[test]
fn a_role_gets_an_external_id_of_its_own_unless_one_is_given() {
    let db = Database::new("create_role");
    let role = "aws_role => 'arn:aws:iam::012345678901:role/a/export', endpoint => 'https://s3.example.com',
                options => '{\"sts_endpoint\": \"https://sts.example.com\"}'";
    create(&db, &format!("name => 'made-up', {role}")).unwrap();
    create(&db, &format!("name => 'made-up-too', {role}")).unwrap();
    create(&db, &format!("name => 'given', {role}, aws_external_id => 'x/y:z=1'")).unwrap();
    assert_eq!(
        db.client().text(
            "SELECT count(DISTINCT aws_external_id)::text || bool_and(CASE name WHEN 'given' THEN aws_external_id = 'x/y:z=1'
                 ELSE aws_external_id ~ '^[0-9a-f-]{36}$' END)::text
             FROM s3_export.integrations WHERE aws_role IS NOT NULL AND sts_endpoint = 'https://sts.example.com'"
        ),
        "3true"
    );
}

#[test]
fn the_servers_own_credentials_need_no_key_file_and_take_no_keys() {
    let db = Database::new("create_ambient");
    let mut client = db.client();
    client.batch_execute("SET s3_export.key_file = ''").unwrap();
    client
        .batch_execute(
            "SELECT s3_export.create_integration('ambient', credential_source => 'ambient', allowed_locations => '{s3://exports}');
             SELECT s3_export.create_integration('profile', credential_source => 'profile', allowed_locations => '{s3://exports}',
                                                 options => '{\"aws_profile\": \"exports\"}')",
        )
        .unwrap();
    assert_eq!(client.text("SELECT count(*) FROM s3_export.credentials"), "1", "that of `local`");
    refused(client.batch_execute("SELECT s3_export.set_credentials('ambient', 'K', 'S')")).sqlstate("55000");
    client.batch_execute("RESET s3_export.key_file").unwrap();
    refused(client.batch_execute("SELECT s3_export.set_credentials('ambient', 'K', 'S')"))
        .sqlstate("22023")
        .message("integration \"ambient\" takes no keys");
    client.batch_execute("DELETE FROM s3_export.integrations WHERE credential_source <> 'keys'").unwrap();
    refuse(&db, "credential_source => 'ambient'").sqlstate("22023").message("takes no keys");
    refuse(&db, "credential_source => 'profile', access_key_id => NULL, secret_access_key => NULL")
        .sqlstate("22023")
        .message("aws_profile");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let db = Database::new("create_bad");
    for (arguments, sqlstate, part) in [
        ("name => NULL", "22004", "name"),
        ("access_key_id => NULL", "22004", "access_key_id"),
        ("secret_access_key => NULL", "22004", "secret_access_key"),
        ("allowed_locations => NULL", "22004", "allowed_locations"),
        ("allowed_locations => '{NULL}'", "22004", "null"),
        ("credential_source => NULL", "22004", "credential_source"),
        ("options => NULL", "22004", "options"),
        ("allowed_locations => '{}'", "22023", "allowed_locations"),
        ("allowed_locations => '{exports}'", "22023", "exports"),
        ("allowed_locations => '{s3://ok-bucket,https://x}'", "22023", "https://x"),
        ("allowed_locations => '{s3://exports/../x}'", "22023", "s3://exports/../x"),
        ("credential_source => 'guess'", "22023", "guess"),
        ("usage_role => 'no_such_role'", "42704", "no_such_role"),
        ("aws_external_id => 'xx'", "22023", "aws_role"),
        ("aws_role => 'arn:aws:iam::012345678901:user/x'", "22023", "aws_role"),
        ("aws_role => 'arn:aws:iam::012345678901:role/x y'", "22023", "aws_role"),
        ("aws_role => 'arn:aws:iam::012345678901:role/x', aws_external_id => 'x'", "22023", "aws_external_id"),
        ("aws_role => 'arn:aws:iam::012345678901:role/x', aws_external_id => 'x y'", "22023", "aws_external_id"),
        (r#"options => '{"sts_endpoint": "sts.example.com"}'"#, "22023", "sts_endpoint"),
        (r#"options => '{"aws_profile": "x"}'"#, "22023", "aws_profile"),
        (r#"options => '{"sse": "aws:kms", "kms_key_id": "alias/x"}'"#, "22023", "kms_key_id"),
        ("endpoint => 'ftp://x'", "22023", "ftp://x"),
        ("endpoint => ''", "22023", "endpoint"),
        ("endpoint => 'https://user:password@x'", "22023", "has a user"),
        ("endpoint => 'https://x/a//b'", "22023", "path"),
        ("endpoint => E'https://x\\x01'", "22023", "control character"),
        (r#"options => '{"sts_endpoint": "https://x/path"}'"#, "22023", "It has a path"),
        ("region => 'EU West'", "22023", "region"),
        ("region => 'RegionOne'", "22023", "with an endpoint"),
        ("access_key_id => ''", "22023", "access_key_id must not be empty"),
        ("secret_access_key => ''", "22023", "secret_access_key must not be empty"),
        ("session_token => ''", "22023", "session_token must not be empty"),
        ("access_key_id => E'AKIA\\n'", "22023", "control character"),
        ("access_key_id => E'AK\\r\\nIA'", "22023", "control character"),
        ("access_key_id => E'AKIA\\x7f'", "22023", "control character"),
        ("secret_access_key => E's\\n'", "22023", "control character"),
        ("session_token => E't\\n'", "22023", "control character"),
        ("name => ''", "22023", "invalid name"),
        ("name => E'a\\nb'", "22023", "invalid name"),
        (r#"options => '{"cheksum": "none"}'"#, "22023", "cheksum"),
        ("options => '[]'", "22023", "JSON object"),
        (r#"options => '{"checksum": "md5"}'"#, "22023", "checksum"),
        (r#"options => '{"sse": "rot13"}'"#, "22023", "sse"),
        (r#"options => '{"kms_key_id": "k"}'"#, "22023", "kms_key_id"),
        (r#"options => '{"storage_class": "cheap"}'"#, "22023", "storage_class"),
        (r#"options => '{"object_acl": "Public Read"}'"#, "22023", "object_acl"),
        (r#"options => '{"expected_bucket_owner": "me"}'"#, "22023", "expected_bucket_owner"),
        (r#"options => '{"max_documents": 0}'"#, "22023", "invalid max_documents"),
        (r#"options => '{"max_documents": "10"}'"#, "22023", "max_documents"),
        (r#"options => '{"max_bytes": -1}'"#, "22023", "invalid max_bytes"),
        (r#"options => '{"max_bytes": 9223372036854775808}'"#, "22023", "max_bytes"),
    ] {
        let refusal = refuse(&db, arguments);
        refusal.sqlstate(sqlstate);
        assert!(format!("{:?}", refusal.0).contains(part), "{arguments}: {:?}", refusal.0);
    }
    refuse(&db, "allowed_locations => '{}'").hint("{s3://} means anywhere");
    refuse(&db, r#"options => '{"cheksum": "none"}'"#).hint("checksum");
}

#[test]
fn the_tables_own_constraints_refuse_the_same_in_plain_statements() {
    let db = Database::new("constraints");
    let mut client = db.client();
    for change in [
        "allowed_locations = '{}'",
        "allowed_locations = '{NULL}'",
        "allowed_locations = '{x}'",
        "allowed_locations = ARRAY[E's3://a-bucket\\nx']",
        "credential_source = 'x'",
        "aws_role = 'x'",
        "aws_external_id = ' '",
        "sts_endpoint = 'x'",
        "endpoint = 'x'",
        "region = 'a b'",
        "checksum = 'x'",
        "max_documents = 0",
        "max_bytes = -1",
    ] {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {change}"))).sqlstate("23514");
    }
    for column in ["name", "owner", "usage_role", "enabled", "credential_source", "path_style", "allowed_locations", "checksum"]
    {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {column} = NULL"))).sqlstate("23502");
    }
    refused(client.batch_execute("UPDATE s3_export.integrations SET integration_id = gen_random_uuid()"))
        .sqlstate("55000")
        .message("never changes");
    assert_eq!(client.text("SELECT updated_at = created_at FROM s3_export.integrations"), "t");
    client.batch_execute("UPDATE s3_export.integrations SET region = 'eu-1'").unwrap();
    assert_eq!(client.text("SELECT updated_at > created_at FROM s3_export.integrations"), "t");
}

#[test]
fn a_second_integration_of_one_name() {
    let db = Database::new("duplicate");
    refuse(&db, "name => 'local'").sqlstate("42710").message("integration \"local\" already exists");
    assert_eq!(db.export("SELECT 1 AS a").documents, 1, "the first still has its own secret");
}

#[test]
fn a_disabled_integration() {
    let db = Database::new("disabled");
    db.client().batch_execute("UPDATE s3_export.integrations SET enabled = false").unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("55000").message("integration \"local\" is disabled");
}

#[test]
fn a_renamed_integration_keeps_its_credentials_and_a_deleted_one_loses_them() {
    let db = Database::new("rename");
    let mut client = db.client();
    client.batch_execute("UPDATE s3_export.integrations SET name = 'other'").unwrap();
    db.refuse("SELECT 1 AS a", "").sqlstate("42704");
    client.batch_execute("UPDATE s3_export.integrations SET name = 'local'").unwrap();
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
    client.batch_execute("DELETE FROM s3_export.integrations").unwrap();
    assert_eq!(client.text("SELECT count(*) FROM s3_export.credentials"), "0");
    db.refuse("SELECT 1 AS a", "").sqlstate("42704");
}

#[test]
fn a_direct_insert_lacks_credentials_until_they_are_set() {
    let db = Database::new("plain_insert");
    let local = Integration::local();
    let mut client = db.client();
    let insert = "INSERT INTO s3_export.integrations (name, endpoint, path_style, allowed_locations) VALUES ('plain', $1, true, '{s3://exports}')";
    client.execute(insert, &[&local.endpoint]).unwrap();
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'plain'");
    refused(client.batch_execute(&format!("SELECT {call}")))
        .sqlstate("55000")
        .message("no credentials")
        .hint("set_credentials");
    let set = "SELECT s3_export.set_credentials('plain', $1, $2)::text";
    client.query(set, &[&local.access_key_id, &local.secret_access_key]).unwrap();
    client.batch_execute(&format!("SELECT {call}")).unwrap();
}

#[test]
fn the_extension_can_be_dropped_and_made_again_beside_a_second_database() {
    let db = Database::new("again");
    let other = Database::new("again_too");
    let mut client = db.client();
    client.batch_execute("DROP EXTENSION s3_export").unwrap();
    assert_eq!(client.text("SELECT count(*) FROM pg_namespace WHERE nspname = 's3_export'"), "0");
    assert_eq!(client.text("SELECT count(*) FROM pg_proc WHERE proname LIKE 's3\\_export%'"), "0");
    client.batch_execute("CREATE EXTENSION s3_export").unwrap();
    db.create(&Integration::local());
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
    assert_eq!(other.export("SELECT 1 AS a").documents, 1);
}

#[test]
fn every_object_has_a_comment_and_public_has_nothing() {
    let db = Database::new("comments");
    let mut client = db.client();
    let objects = "WITH member AS (
            SELECT classid, objid FROM pg_depend
            WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 's3_export')
        ), relation AS (
            SELECT objid AS relid FROM member WHERE classid = 'pg_class'::regclass
        ), object AS (
            SELECT classid, objid FROM member
            UNION SELECT 'pg_policy'::regclass, oid FROM pg_policy JOIN relation ON polrelid = relid
            UNION SELECT 'pg_trigger'::regclass, oid FROM pg_trigger JOIN relation ON tgrelid = relid WHERE NOT tgisinternal
            UNION SELECT 'pg_constraint'::regclass, oid FROM pg_constraint JOIN relation ON conrelid = relid WHERE contype <> 'n'
            UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index JOIN relation ON indrelid = relid
                WHERE indexrelid NOT IN (SELECT conindid FROM pg_constraint)
        ), named AS (
            SELECT classid, objid, type, identity FROM object, pg_identify_object(classid, objid, 0)
        )";
    let mut names = |rest: &str| client.text(&format!("{objects} SELECT coalesce(string_agg({rest}"));
    assert_eq!(
        names(
            "identity, ', '), '') FROM named WHERE type <> 'type' AND obj_description(objid, classid::regclass::name) IS NULL"
        ),
        ""
    );
    assert_eq!(
        names(
            "attrelid::regclass || '.' || attname, ', '), '') FROM pg_attribute JOIN relation ON attrelid = relid
                WHERE attnum > 0 AND NOT attisdropped AND attrelid NOT IN (SELECT indexrelid FROM pg_index)
                  AND col_description(attrelid, attnum) IS NULL"
        ),
        ""
    );
    // So that what is asked for is there to be asked for.
    let kinds = "DISTINCT type, ' ' ORDER BY type), '') FROM named WHERE type <> 'type'";
    assert_eq!(names(kinds), "function index policy schema table table constraint trigger view");
    assert_eq!(
        names("identity, ', '), '') FROM named WHERE type = 'function' AND has_function_privilege('public', objid, 'EXECUTE')"),
        ""
    );
    let roles = "SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles
        WHERE rolname LIKE 's3\\_export\\_%' AND shobj_description(oid, 'pg_authid') IS NOT NULL";
    assert_eq!(client.text(roles), "s3_export_admin,s3_export_auditor,s3_export_member");
    assert_eq!(client.text("SELECT has_schema_privilege('public', 's3_export', 'USAGE')"), "f");
}
