//! Arguments that are refused: each with its SQLSTATE and a hint, before anything is written.

use super::fixture::{Database, Integration, refused};

/// Calls with this URI and integration.
#[track_caller]
fn refuse_at(db: &Database, uri: &str, integration: &str) -> super::fixture::Refusal {
    refused(db.client().query("SELECT s3_export($1, $2, 'SELECT 1 AS a')::text", &[&uri, &integration]))
}

#[test]
fn what_is_no_s3_location() {
    let db = Database::new("no_location");
    for uri in ["", "https://exports/x", "exports/x", "S3://exports/x", "s3:/exports"] {
        refuse_at(&db, uri, "local")
            .sqlstate("22023")
            .message("invalid S3 location")
            .detail("s3://")
            .hint("s3://bucket/prefix");
    }
    for uri in ["s3://", "s3:///x"] {
        refuse_at(&db, uri, "local").sqlstate("22023").detail("bucket's name is empty").hint("s3://bucket/prefix");
    }
    for uri in ["s3://exports//x", "s3://exports/x//y", "s3://exports/../x", "s3://exports/x/.", "s3://exports/a\nb"] {
        refuse_at(&db, uri, "local").sqlstate("22023").message("invalid S3 location");
    }
    refuse_at(&db, &format!("s3://exports/{}", "é".repeat(500)), "local").sqlstate("22023").detail("1,024");
}

#[test]
fn a_location_that_the_integration_does_not_allow() {
    let db = Database::new("not_allowed");
    db.create(&Integration { name: "team", allowed_locations: "{s3://exports/team,s3://other}", ..Integration::local() });
    for uri in ["s3://exports/team2", "s3://exports", "s3://others/x", "s3://exports/x/team"] {
        refuse_at(&db, uri, "team")
            .sqlstate("42501")
            .message("integration \"team\" does not allow")
            .message(uri)
            .detail("s3://exports/team, s3://other");
    }
}

#[test]
fn an_unknown_integration_and_an_invisible_one_give_the_same_answer() {
    let db = Database::new("unknown_integration");
    let owner = db.role("owner", &["s3_export_member"]);
    let stranger = db.role("stranger", &["s3_export_member"]);
    db.create(&Integration { name: "hidden", usage_role: &owner, ..Integration::local() });
    let mut client = db.client_as(&stranger);
    let mut refuse = |name: &str| {
        let call = format!("SELECT s3_export('s3://exports/x', '{name}', 'SELECT 1 AS a')");
        let refusal = refused(client.batch_execute(&call));
        refusal.sqlstate("42704").hint("s3_export.integrations");
        refusal.0.message().replace(name, "NAME")
    };
    assert_eq!(refuse("absent"), refuse("hidden"));
}

#[test]
fn null_where_a_value_is_needed() {
    let db = Database::new("nulls");
    for arguments in ["NULL, 'local', 'SELECT 1'", "'s3://exports/x', NULL, 'SELECT 1'", "'s3://exports/x', 'local', NULL"] {
        refused(db.client().batch_execute(&format!("SELECT s3_export({arguments})")))
            .sqlstate("22004")
            .message("must not be null");
    }
    for argument in ["format", "include_query_id", "wrap_types", "options"] {
        db.refuse("SELECT 1 AS a", &format!("{argument} => NULL")).sqlstate("22004").message(argument);
    }
    for argument in ["compression", "output_chunk_size", "output_chunk_bytes", "partition_by"] {
        assert_eq!(db.export_with("SELECT 1 AS a", &format!("{argument} => NULL")).documents, 1, "{argument}");
    }
}

#[test]
fn chunk_sizes_below_one() {
    let db = Database::new("chunk_sizes");
    for argument in ["output_chunk_size", "output_chunk_bytes"] {
        for value in ["0", "-1", "(-2147483648)"] {
            db.refuse("SELECT 1 AS a", &format!("{argument} => {value}")).sqlstate("22023").message(argument);
        }
    }
}

#[test]
fn options_that_are_unknown_or_make_no_sense() {
    let db = Database::new("options");
    let refuse = |options: &str| db.refuse("SELECT 1 AS a", &format!("options => '{options}'"));
    refuse(r#"{"manifest_qery": true}"#).sqlstate("22023").message("manifest_qery").hint("manifest_query").hint("nan");
    refuse(r#"{"manifest_query": 1}"#).sqlstate("22023").message("manifest_query").detail("true or false");
    refuse(r#"{"nan": "zero"}"#).sqlstate("22023").message("nan").detail("null");
    for no_object in ["[]", "null", "1", r#""x""#] {
        refuse(no_object).sqlstate("22023").message("options must be a JSON object");
    }
    db.refuse("SELECT 1 AS a", "format => 'xml'").sqlstate("22023").message("xml").hint("json");
    db.refuse("SELECT 1 AS a", "compression => 'rar'").sqlstate("22023").message("rar").hint("none");
    db.refuse("SELECT 1 AS a", "format => ''").sqlstate("22023");
}

#[test]
fn a_role_without_the_privilege() {
    let db = Database::new("no_member");
    let role = db.role("plain", &[]);
    let call = "SELECT s3_export('s3://exports/x', 'local', 'SELECT 1 AS a')";
    refused(db.client_as(&role).batch_execute(call)).sqlstate("42501").message("permission denied for function s3_export");
}

#[test]
fn text_that_tries_to_be_sql_is_only_text() {
    let db = Database::new("hostile");
    for name in ["x' OR true --", "\"; DROP TABLE s3_export.integrations; --", "$argument", "\\", "%s"] {
        refuse_at(&db, "s3://exports/x", name).sqlstate("42704").message(name);
    }
    db.create(&Integration { name: "it's \"odd\" $argument \\", ..Integration::local() });
    let prefix = db.prefix();
    let call = format!("SELECT s3_export('{}', 'it''s \"odd\" $argument \\', 'SELECT 1 AS a')", db.bucket.uri(&prefix));
    db.client().batch_execute(&call).unwrap();
    assert_eq!(db.bucket.documents(&prefix).len(), 1);
}
