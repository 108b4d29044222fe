//! Roles assumed through STS, against servers that check them. `server_identity` has those that the server's own identity assumes.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::fixture::{
    Action, Bucket, Database, Exported, Gateway, Request, Session, StandIn, hung_endpoint, literal, refused, wait_for,
};

/// Arguments of create_integration for a stand-in, in which one may be changed.
#[derive(Clone)]
pub struct RoleIntegration {
    pub stand_in: StandIn,
    pub endpoint: String,
    pub sts_endpoint: Option<String>,
    pub bucket: &'static str,
    pub region: Option<&'static str>,
    pub source: &'static str,
}

impl RoleIntegration {
    pub fn of(stand_in: StandIn) -> Self {
        let endpoint = stand_in.endpoint.clone();
        RoleIntegration {
            sts_endpoint: Some(endpoint.clone()),
            endpoint,
            stand_in,
            bucket: "exports",
            region: None,
            source: "keys",
        }
    }

    pub fn create(&self, db: &Database) {
        let StandIn { access_key_id, secret_access_key, role, external_id, .. } = &self.stand_in;
        let options = match &self.sts_endpoint {
            Some(endpoint) => format!(r#"{{"sts_endpoint": "{endpoint}"}}"#),
            None => "{}".to_owned(),
        };
        let keys = match self.source {
            "keys" => {
                format!("access_key_id => {}, secret_access_key => {},", literal(access_key_id), literal(secret_access_key))
            }
            _ => String::new(),
        };
        db.client()
            .batch_execute(&format!(
                "SELECT s3_export.create_integration('role', {keys} credential_source => '{}', aws_role => '{role}',
                     aws_external_id => '{external_id}', endpoint => '{}', path_style => true, usage_role => 'public',
                     allowed_locations => '{{s3://{}}}', region => {}, options => '{options}')",
                self.source,
                self.endpoint,
                self.bucket,
                self.region.map_or("NULL".to_owned(), literal),
            ))
            .unwrap();
    }
}

pub fn export(db: &Database, client: &mut Session, query: &str) -> Result<Exported, postgres::Error> {
    db.export_by(client, "role", query)
}

/// Counts the requests to STS.
fn sts_calls(gateway: &Gateway) -> usize {
    gateway.requests().iter().filter(|request| request.field("Action").as_deref() == Some("AssumeRole")).count()
}

#[test]
fn the_right_external_id_assumes_the_role() {
    let db = Database::new("role_right");
    RoleIntegration::of(StandIn::ministack()).create(&db);
    let exported = export(&db, &mut db.client(), "SELECT generate_series(1, 2500) AS a").unwrap();
    let bucket = Bucket::of(&StandIn::ministack(), "exports");
    assert_eq!((bucket.documents(&exported.prefix).len(), bucket.manifests(&exported.prefix).len()), (2500, 1));
}

/// The user's own keys reach no bucket here.
#[test]
fn what_arrives_was_written_by_the_role() {
    let db = Database::new("role_moto");
    let integration = RoleIntegration::of(StandIn::moto());
    integration.create(&db);
    assert_eq!(export(&db, &mut db.client(), "SELECT 1 AS a").unwrap().documents, 1);
    db.client()
        .batch_execute("UPDATE s3_export.integrations SET aws_role = NULL, aws_external_id = NULL WHERE name = 'role'")
        .unwrap();
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("42501").message("S3 denied access");
}

#[test]
fn a_wrong_external_id_names_the_role_and_not_the_secret() {
    for stand_in in [StandIn::ministack(), StandIn::moto()] {
        let db = Database::new("role_wrong_id");
        let wrong = StandIn { external_id: "wrong-external-id".into(), ..stand_in };
        RoleIntegration::of(wrong.clone()).create(&db);
        let mut client = db.client();
        client.batch_execute("CREATE SEQUENCE ran").unwrap();
        refused(export(&db, &mut client, "SELECT nextval('ran')"))
            .sqlstate("42501")
            .message(&format!("could not assume the role {}", wrong.role))
            .detail("STS answered")
            .hint("s3_export.trust_policy")
            .hides(&wrong.secret_access_key)
            .hides("wrong-external-id");
        assert_eq!(client.text("SELECT is_called FROM ran"), "f", "the query ran before the credentials were there");
    }
}

#[test]
fn a_wrong_secret_is_an_error_of_the_credentials() {
    let db = Database::new("role_wrong_secret");
    let wrong = |stand_in| StandIn { secret_access_key: "wrong-secret".into(), ..stand_in };
    RoleIntegration::of(wrong(StandIn::ministack())).create(&db);
    refused(export(&db, &mut db.client(), "SELECT 1 AS a"))
        .sqlstate("28000")
        .message("STS does not accept the integration's credentials")
        .hides("wrong-secret");
    // Moto says it in a form of its own, without a code.
    let db = Database::new("role_wrong_secret_moto");
    RoleIntegration::of(wrong(StandIn::moto())).create(&db);
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("42501").message("STS denied it").hides("wrong-secret");
}

#[test]
fn a_role_that_does_not_exist() {
    let db = Database::new("role_unknown");
    RoleIntegration::of(StandIn { role: "arn:aws:iam::000000000000:role/nobody".into(), ..StandIn::ministack() }).create(&db);
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("42501").message("role/nobody");
}

/// The store enforces the session policy, so this shows that it allows all that an export does, and an aborted one.
#[test]
fn the_session_policy_allows_large_files_and_their_clean_up() {
    let db = Database::new("role_policy");
    RoleIntegration::of(StandIn::ministack()).create(&db);
    let mut client = db.client();
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    let bucket = Bucket::of(&StandIn::ministack(), "exports");
    let prefix = db.prefix();
    let call = db.call(&prefix, large, "output_chunk_size => 100000").replace("'local'", "'role'");
    client.batch_execute(&format!("SELECT {call}")).unwrap();
    assert_eq!(bucket.files(&prefix).len(), 1);
    let prefix = db.prefix();
    let call = db.call(&prefix, large, "output_chunk_size => 100000").replace("'local'", "'role'");
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
    bucket.nothing_left(&prefix);
    assert!(client.notices().is_empty());
}

/// Without s3:ListBucket a store answers 403, not 404, where there is no object.
#[test]
fn the_session_policy_allows_a_look_where_an_object_may_be_already() {
    let db = Database::new("role_look");
    let gateway = Gateway::to(&StandIn::ministack().endpoint, |_| Action::Forward);
    RoleIntegration { sts_endpoint: Some(gateway.endpoint()), ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let may_list = |options: &str| {
        let call = db.call(&db.prefix(), "SELECT 1 AS a", &format!("options => '{options}'")).replace("'local'", "'role'");
        // A session of its own, which assumes the role anew.
        db.client().batch_execute(&format!("SELECT {call}")).unwrap();
        let policy = gateway.requests().pop().unwrap().field("Policy").unwrap();
        policy.contains(r#""s3:ListBucket""#)
    };
    assert!(!may_list("{}"));
    for name in ["single_file", "manifest_name", "success_marker"] {
        assert!(may_list(&format!(r#"{{"{name}": "name"}}"#)), "{name}");
    }
    assert!(may_list(r#"{"existing": "error"}"#));
}

#[test]
fn sts_is_told_the_role_the_session_and_the_allowed_locations() {
    let db = Database::new("role_request");
    let gateway = Gateway::to(&StandIn::ministack().endpoint, |_| Action::Forward);
    RoleIntegration { sts_endpoint: Some(gateway.endpoint()), ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    db.client()
        .batch_execute(
            "UPDATE s3_export.integrations SET allowed_locations = '{s3://exports,s3://other/te*m}' WHERE name = 'role'",
        )
        .unwrap();
    let analyst = db.role("analyst", &["s3_export_member"]);
    export(&db, &mut db.client_as(&analyst), "SELECT 1 AS a").unwrap();
    let request = gateway.requests().remove(0);
    let field = |name: &str| request.field(name).unwrap();
    assert_eq!(field("RoleArn"), StandIn::ministack().role);
    assert_eq!(field("ExternalId"), StandIn::ministack().external_id);
    assert_eq!(field("DurationSeconds"), "3600");
    assert_eq!(field("RoleSessionName"), format!("s3_export-{analyst}"));
    let policy: Value = serde_json::from_str(&field("Policy")).unwrap();
    assert_eq!(
        policy["Statement"][0]["Resource"],
        serde_json::json!(["arn:aws:s3:::exports/*", "arn:aws:s3:::other/te${*}m/*"])
    );
}

#[test]
fn a_backend_assumes_a_role_once_for_many_exports() {
    let db = Database::new("role_cache");
    let gateway = Gateway::to(&StandIn::ministack().endpoint, |_| Action::Forward);
    RoleIntegration { sts_endpoint: Some(gateway.endpoint()), ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let mut client = db.client();
    for _ in 0..3 {
        export(&db, &mut client, "SELECT 1 AS a").unwrap();
    }
    assert_eq!(sts_calls(&gateway), 1);
    export(&db, &mut db.client(), "SELECT 1 AS a").unwrap();
    assert_eq!(sts_calls(&gateway), 2, "another backend has a cache of its own");
    // Other keys are another identity, and what the old ones got is not used for them.
    client.batch_execute("SELECT s3_export.set_credentials('role', 'AKIAWRONG', 'wrong')").unwrap();
    refused(export(&db, &mut client, "SELECT 1 AS a")).sqlstate("28000");
}

/// The store says ExpiredToken of the first session after ten files, however long STS said that it would live.
#[test]
fn a_token_that_expires_in_the_middle_of_an_export_does_not_break_it() {
    let db = Database::new("role_expired");
    let stand_in = StandIn::ministack();
    let sts = Gateway::to(&stand_in.endpoint, |_| Action::Forward);
    let first_token = std::sync::Mutex::new((None::<String>, 0));
    let s3 = Gateway::to(&stand_in.endpoint, move |request| {
        let token = request.header("x-amz-security-token").unwrap_or_default().to_owned();
        let mut first = first_token.lock().unwrap();
        let (known, seen) = &mut *first;
        if *known.get_or_insert_with(|| token.clone()) == token {
            *seen += 1;
            if *seen > 10 {
                return Action::Answer("HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml".into(), EXPIRED.into());
            }
        }
        Action::Forward
    });
    RoleIntegration { endpoint: s3.endpoint(), sts_endpoint: Some(sts.endpoint()), ..RoleIntegration::of(stand_in.clone()) }
        .create(&db);
    let exported = export(&db, &mut db.client(), "SELECT generate_series(1, 30000) AS a").unwrap();
    assert_eq!(exported.files, 30);
    let bucket = Bucket::of(&stand_in, "exports");
    assert_eq!((bucket.documents(&exported.prefix).len(), bucket.manifests(&exported.prefix).len()), (30000, 1));
    assert_eq!(sts_calls(&sts), 2);
    let tokens: HashSet<String> =
        s3.requests().iter().filter_map(|request| request.header("x-amz-security-token").map(str::to_owned)).collect();
    assert_eq!(tokens.len(), 2);
}

/// The server's own keys were changed under a backend that has kept them.
#[test]
fn base_credentials_that_sts_calls_expired_are_fetched_anew() {
    let db = Database::new("role_base_expired");
    let stand_in = StandIn::ministack();
    let calls = std::sync::atomic::AtomicU32::new(0);
    let sts = Gateway::to(&stand_in.endpoint, move |_| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => {
            let body = "<ErrorResponse><Error><Code>ExpiredToken</Code><Message>expired</Message></Error></ErrorResponse>";
            Action::Answer("HTTP/1.1 403 Forbidden\r\ncontent-type: text/xml".into(), body.into())
        }
        _ => Action::Forward,
    });
    RoleIntegration { sts_endpoint: Some(sts.endpoint()), source: "ambient", ..RoleIntegration::of(stand_in) }.create(&db);
    assert_eq!(export(&db, &mut db.client(), "SELECT 1 AS a").unwrap().documents, 1);
    assert_eq!(sts_calls(&sts), 2);
}

/// STS repeats the value that it does not like.
#[test]
fn what_sts_says_of_a_bad_value_is_not_repeated() {
    let db = Database::new("role_validation");
    let stand_in = StandIn::ministack();
    let sts = Gateway::to(&stand_in.endpoint, |_| {
        let body = "<ErrorResponse><Error><Code>ValidationError</Code><Message>Value 'the-external-id' at 'externalId'</Message></Error></ErrorResponse>";
        Action::Answer("HTTP/1.1 400 Bad Request\r\ncontent-type: text/xml".into(), body.into())
    });
    RoleIntegration { sts_endpoint: Some(sts.endpoint()), ..RoleIntegration::of(stand_in) }.create(&db);
    refused(export(&db, &mut db.client(), "SELECT 1 AS a"))
        .sqlstate("58030")
        .detail("ValidationError")
        .hides("the-external-id");
}

const EXPIRED: &str =
    "<?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";

/// STS gives sessions of a few seconds: they are renewed at half of their life, and no request ever meets an expired one.
#[test]
fn a_long_export_renews_its_session_ahead_of_the_expiry() {
    let db = Database::new("role_renewal");
    let stand_in = StandIn::ministack();
    let sts = Gateway::to(&stand_in.endpoint, |_| Action::Change(Box::new(|body| expiring_in(&body, Duration::from_secs(4)))));
    RoleIntegration { sts_endpoint: Some(sts.endpoint()), ..RoleIntegration::of(stand_in.clone()) }.create(&db);
    let query = "SELECT a, pg_sleep(0.3)::text AS slept FROM generate_series(1, 20) AS a";
    let prefix = db.prefix();
    let call = db.call(&prefix, query, "output_chunk_size => 1").replace("'local'", "'role'");
    let exported = db.exported(&mut db.client(), &call, &prefix).unwrap();
    assert_eq!((exported.documents, exported.files), (20, 20));
    assert!(sts_calls(&sts) >= 3, "{} calls in six seconds", sts_calls(&sts));
}

/// The answer with another expiry.
fn expiring_in(body: &str, life: Duration) -> String {
    let (before, rest) = body.split_once("<Expiration>").unwrap();
    let (_, after) = rest.split_once("</Expiration>").unwrap();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + life;
    let at = aws_smithy_types::DateTime::from_secs(at.as_secs().try_into().unwrap());
    let at = at.fmt(aws_smithy_types::date_time::Format::DateTime).unwrap();
    format!("{before}<Expiration>{at}</Expiration>{after}")
}

#[test]
fn a_cancel_reaches_an_export_that_waits_for_sts() {
    let db = Database::new("role_hung");
    RoleIntegration { sts_endpoint: Some(hung_endpoint()), ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'role'");
    let running = db.client().start(&format!("SELECT {call}"));
    let mut witness = db.client();
    wait_for("the export to wait for STS", || witness.sees_waiting(running.pid).then_some(()));
    witness.execute("SELECT pg_cancel_backend($1)", &[&running.pid]).unwrap();
    let (_, outcome) = running.join_within(Duration::from_secs(10));
    refused(outcome).sqlstate("57014");
}

#[test]
fn a_role_with_an_endpoint_needs_to_know_which_sts_to_ask() {
    let db = Database::new("role_no_sts");
    RoleIntegration { sts_endpoint: None, ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("55000").message("no sts_endpoint");
}

#[test]
fn too_many_locations_for_a_session_policy_are_refused() {
    let db = Database::new("role_long");
    RoleIntegration::of(StandIn::ministack()).create(&db);
    db.client()
        .batch_execute(
            "UPDATE s3_export.integrations SET allowed_locations = allowed_locations ||
                 ARRAY(SELECT 's3://exports/' || repeat('x', 40) || n FROM generate_series(1, 40) AS n) WHERE name = 'role'",
        )
        .unwrap();
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("53400").detail("2048");
}

#[test]
fn a_bucket_in_another_region_is_named_with_its_region() {
    let db = Database::new("role_region");
    let elsewhere =
        RoleIntegration { bucket: "exports-frankfurt", region: Some("us-east-1"), ..RoleIntegration::of(StandIn::ministack()) };
    elsewhere.create(&db);
    let mut client = db.client();
    let to_frankfurt = |client: &mut Session, prefix: &str| {
        let call = db
            .call(prefix, "SELECT 1 AS a", "")
            .replace("'local'", "'role'")
            .replace("s3://exports/", "s3://exports-frankfurt/");
        db.exported(client, &call, prefix)
    };
    refused(to_frankfurt(&mut client, &db.prefix())).sqlstate("22023").message("another region").hint("to eu-central-1");
    client.batch_execute("UPDATE s3_export.integrations SET region = 'eu-central-1' WHERE name = 'role'").unwrap();
    assert_eq!(to_frankfurt(&mut client, &db.prefix()).unwrap().documents, 1);
}

#[test]
fn one_assumed_session_is_not_lent_to_another_database_role() {
    let db = Database::new("role_sessions");
    let gateway = Gateway::to(&StandIn::ministack().endpoint, |_| Action::Forward);
    RoleIntegration { sts_endpoint: Some(gateway.endpoint()), ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let (one, two) = (db.role("one", &["s3_export_member"]), db.role("two", &["s3_export_member"]));
    let mut client = db.client();
    for role in [&one, &two] {
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        export(&db, &mut client, "SELECT 1 AS a").unwrap();
        client.batch_execute("RESET ROLE").unwrap();
    }
    let names: Vec<String> =
        gateway.requests().iter().filter_map(|request: &Request| request.field("RoleSessionName")).collect();
    assert_eq!(names, [format!("s3_export-{one}"), format!("s3_export-{two}")]);
}
