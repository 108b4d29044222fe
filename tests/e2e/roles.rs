//! Roles assumed through STS, the server's own credentials, and inline roles, against servers that check them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::fixture::{
    Action, Bucket, Cluster, Database, Exported, Gateway, Request, ServerFile, Session, StandIn, hung_endpoint, literal,
    refused, wait_for,
};

/// Arguments of create_integration for a stand-in, in which one may be changed.
#[derive(Clone)]
struct RoleIntegration {
    stand_in: StandIn,
    endpoint: String,
    sts_endpoint: Option<String>,
    bucket: &'static str,
    region: Option<&'static str>,
    source: &'static str,
}

impl RoleIntegration {
    fn of(stand_in: StandIn) -> Self {
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

    fn create(&self, db: &Database) {
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

fn export(db: &Database, client: &mut Session, query: &str) -> Result<Exported, postgres::Error> {
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

/// Where the user's own keys reach no bucket.
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
fn the_servers_own_identity_and_profiles_export_and_assume_roles() {
    let db = Database::new("role_ambient");
    // The default profile of the server's AWS files is ministack's user.
    RoleIntegration { source: "ambient", ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    let mut client = db.client();
    assert_eq!(export(&db, &mut client, "SELECT 1 AS a").unwrap().documents, 1);
    client
        .batch_execute("UPDATE s3_export.integrations SET aws_role = NULL, aws_external_id = NULL WHERE name = 'role'")
        .unwrap();
    assert_eq!(export(&db, &mut client, "SELECT 1 AS a").unwrap().documents, 1);
    let StandIn { endpoint, role, external_id, .. } = StandIn::moto();
    let options = format!(r#"{{"aws_profile": "moto", "sts_endpoint": "{endpoint}"}}"#);
    client
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('profile', credential_source => 'profile', aws_role => '{role}',
                 aws_external_id => '{external_id}', endpoint => '{endpoint}', path_style => true,
                 allowed_locations => '{{s3://exports}}', options => '{options}')"
        ))
        .unwrap();
    assert_eq!(db.export_by(&mut client, "profile", "SELECT 1 AS a").unwrap().documents, 1);
    // A profile that assumes the role by itself, in whatever region.
    client
        .batch_execute("UPDATE s3_export.integrations SET aws_profile = 'default', aws_role = NULL, aws_external_id = NULL WHERE name = 'profile'")
        .unwrap();
    refused(db.export_by(&mut client, "profile", "SELECT 1 AS a")).sqlstate("28000").message("S3 does not accept");
    client.batch_execute("UPDATE s3_export.integrations SET aws_profile = 'absent' WHERE name = 'profile'").unwrap();
    refused(db.export_by(&mut client, "profile", "SELECT 1 AS a")).sqlstate("28000").message("profile \"absent\"");
}

fn inline_call(db: &Database, prefix: &str, role: &str, external_id: &str) -> String {
    format!("s3_export_with_role('{}', '{role}', '{external_id}', 'SELECT 1 AS a')", db.bucket.uri(prefix))
}

#[test]
fn an_inline_role_works_where_a_superuser_lists_it() {
    let db = Database::new("role_inline");
    let StandIn { endpoint, role, external_id, .. } = StandIn::ministack();
    let setting = format!(
        r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports/{}"], "endpoint": "{endpoint}", "sts_endpoint": "{endpoint}", "path_style": true}}]"#,
        db.name
    );
    let mut client = db.client();
    let prefix = format!("{}/x", db.name);
    let call = inline_call(&db, &prefix, &role, &external_id);
    refused(client.batch_execute(&format!("SELECT {call}"))).sqlstate("42501").hint("s3_export.inline_roles");
    client.batch_execute(&format!("SET s3_export.inline_roles = {}", literal(&setting))).unwrap();
    let exported = db.exported(&mut client, &call, &prefix).unwrap();
    assert_eq!(exported.documents, 1);
    let wrong = inline_call(&db, &prefix, &role, "wrong-id");
    refused(client.batch_execute(&format!("SELECT {wrong}"))).sqlstate("42501").message("could not assume the role");
    for arguments in ["NULL, 'x'", "'x', NULL"] {
        let call = format!("s3_export_with_role('s3://exports/x', {arguments}, 'SELECT 1')");
        refused(client.batch_execute(&format!("SELECT {call}"))).sqlstate("22004");
    }
    client.batch_execute("SET s3_export.inline_roles = 'x'").unwrap();
    refused(client.batch_execute(&format!("SELECT {call}"))).sqlstate("F0000").message("inline_roles");
}

/// Whoever may name any role can write wherever a role trusts this server.
#[test]
fn attack_confused_deputy_through_the_inline_form() {
    let db = Database::new("deputy_inline");
    let StandIn { endpoint, role, external_id, .. } = StandIn::ministack();
    let analyst = db.role("analyst", &["s3_export_member", "s3_export_admin"]);
    let mut client = db.client_as(&analyst);
    let prefix = db.prefix();
    let call = format!("SELECT {}", inline_call(&db, &prefix, &role, &external_id));
    refused(client.batch_execute(&call)).sqlstate("42501").message("permission denied for function s3_export_with_role");
    // With the function granted, the list is still the superuser's.
    db.client()
        .batch_execute(&format!(
            "GRANT EXECUTE ON FUNCTION s3_export_with_role TO {analyst};
             ALTER DATABASE {} SET s3_export.inline_roles = {}",
            db.name,
            literal(&format!(
                r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports/{prefix}"], "endpoint": "{endpoint}", "sts_endpoint": "{endpoint}", "path_style": true}}]"#
            ))
        ))
        .unwrap();
    let mut client = db.client_as(&analyst);
    client.batch_execute(&call).unwrap();
    refused(client.batch_execute("SET s3_export.inline_roles = '[]'")).sqlstate("42501");
    refused(client.batch_execute("SHOW s3_export.inline_roles")).sqlstate("42501");
    for (role, prefix) in [(role.replace("export", "other"), prefix.clone()), (role, format!("{prefix}2"))] {
        let call = format!("SELECT {}", inline_call(&db, &prefix, &role, &external_id));
        refused(client.batch_execute(&call)).sqlstate("42501").message("may not be named inline");
    }
    // A session that has not loaded the library yet takes any value for a setting that it does not know.
    let mut fresh = db.client_as(&analyst);
    let setting = format!(r#"[{{"aws_role": "{}", "allowed_locations": ["s3://"]}}]"#, StandIn::moto().role);
    fresh.batch_execute(&format!("SET s3_export.inline_roles = {}", literal(&setting))).unwrap();
    let call = format!("SELECT {}", inline_call(&db, &prefix, &StandIn::moto().role, &external_id));
    refused(fresh.batch_execute(&call)).sqlstate("42501").message("may not be named inline");
}

/// An administrator must not lend himself the server's own identity, by any statement on the table.
#[test]
fn attack_confused_deputy_through_ambient_credentials() {
    let db = Database::new("deputy_ambient");
    let admin = db.role("admin", &["s3_export_admin", "s3_export_member"]);
    let mut client = db.client_as(&admin);
    for source in ["ambient", "profile"] {
        let create = format!(
            "SELECT s3_export.create_integration('x', credential_source => '{source}', allowed_locations => '{{s3://}}')"
        );
        refused(client.batch_execute(&create)).sqlstate("42501").message("only a superuser");
    }
    let insert =
        "INSERT INTO s3_export.integrations (name, credential_source, allowed_locations) VALUES ('x', 'ambient', '{s3://}')";
    refused(client.batch_execute(insert)).sqlstate("42501").message("superuser_needed");
    // A superuser's ambient integration that was handed over: the administrator may delete it, and neither widen nor use it.
    RoleIntegration { source: "ambient", ..RoleIntegration::of(StandIn::ministack()) }.create(&db);
    db.client().batch_execute(&format!("UPDATE s3_export.integrations SET owner = '{admin}' WHERE name = 'role'")).unwrap();
    refused(client.batch_execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://}'")).sqlstate("42501");
    refused(export(&db, &mut client, "SELECT 1 AS a")).sqlstate("42501").detail("a superuser's to give");
    refused(export(&db, &mut db.client(), "SELECT 1 AS a")).sqlstate("42501").detail("a superuser's to give");
    assert_eq!(client.execute("DELETE FROM s3_export.integrations", &[]).unwrap(), 1);
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

/// Temporary keys of the role, as AWS's metadata services write them.
fn session_as_json() -> String {
    let StandIn { endpoint, access_key_id, secret_access_key, role, external_id } = StandIn::ministack();
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
        .region(aws_sdk_sts::config::Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(aws_credential_types::Credentials::new(access_key_id, secret_access_key, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    let client = aws_sdk_sts::Client::from_conf(config.build());
    let request = client.assume_role().role_arn(role).external_id(external_id).role_session_name("machine");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let given = runtime.block_on(request.send()).unwrap().credentials.unwrap();
    serde_json::json!({
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": given.access_key_id,
        "SecretAccessKey": given.secret_access_key,
        "Token": given.session_token,
        "Expiration": given.expiration.fmt(aws_smithy_types::date_time::Format::DateTime).unwrap(),
    })
    .to_string()
}

/// The metadata services live where no integration may connect; this is the one client that may.
#[test]
fn the_servers_identity_comes_from_its_container_or_its_machine() {
    let db = Database::new("metadata");
    let StandIn { endpoint, .. } = StandIn::ministack();
    db.client()
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('role', credential_source => 'ambient', endpoint => '{endpoint}', path_style => true,
                 allowed_locations => '{{s3://exports}}')"
        ))
        .unwrap();
    let session = session_as_json();
    let ok = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
    let metadata = Gateway::to(&endpoint, move |request| {
        let path = request.head.split(' ').nth(1).unwrap();
        match path {
            "/container" => Action::Answer(ok.into(), session.clone()),
            "/latest/api/token" => {
                Action::Answer(format!("{ok}\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600"), "token".into())
            }
            "/latest/meta-data/iam/security-credentials/" => Action::Answer(ok.into(), "machine".into()),
            "/latest/meta-data/iam/security-credentials/machine" => {
                // The second version of the protocol, which a forged request from elsewhere does not speak.
                assert_eq!(request.header("x-aws-ec2-metadata-token"), Some("token"));
                Action::Answer(ok.into(), session.clone())
            }
            _ => Action::Answer("HTTP/1.1 404 Not Found".into(), String::new()),
        }
    });
    let container = format!("{}/container", metadata.endpoint());
    let no_files = [("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"), ("HOME", "/")];
    for source in
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.endpoint())]
    {
        let variables: Vec<(&str, &str)> = no_files.iter().copied().chain([(source.0, source.1.as_str())]).collect();
        let standby = Cluster::standby_with(&variables);
        let mut client = standby.session(&db.name, "postgres");
        for _ in 0..2 {
            let exported = export(&db, &mut client, "SELECT 1 AS a");
            assert_eq!(exported.unwrap_or_else(|error| panic!("{source:?}: {error:?}")).documents, 1);
        }
        let asked = metadata.requests().iter().filter(|request| request.head.contains("/container")).count();
        assert_eq!(asked, 1, "the backend keeps what it was given");
    }
}

/// Profiles that assume a role by themselves, and web identities (as EKS gives them to a service account): AWS's own chain asks
/// STS for these, in its own name.
#[test]
fn the_servers_identity_may_be_a_role_that_its_surroundings_assume() {
    let db = Database::new("surroundings");
    let StandIn { endpoint, role, external_id, .. } = StandIn::ministack();
    let config = format!(
        "[profile chained]\nrole_arn = {role}\nsource_profile = default\nexternal_id = {external_id}\nregion = us-east-1\n"
    );
    let config = ServerFile::of(&db, "aws-config", &config);
    let token = ServerFile::of(&db, "token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.x");
    let credentials = db.environment().run_dir.join("aws-credentials");
    let credentials = credentials.to_str().unwrap();
    for (name, source) in [
        ("chained", "credential_source => 'profile', options => '{\"aws_profile\": \"chained\"}'"),
        ("web", "credential_source => 'ambient'"),
    ] {
        db.client()
            .batch_execute(&format!(
                "SELECT s3_export.create_integration('{name}', {source}, endpoint => '{endpoint}', path_style => true,
                     allowed_locations => '{{s3://exports}}')"
            ))
            .unwrap();
    }
    // The stand-in knows no web identities; what it would give for one, it has given already.
    let session: Value = serde_json::from_str(&session_as_json()).unwrap();
    let sts = Gateway::to(&endpoint, move |request| {
        if request.field("Action").as_deref() != Some("AssumeRoleWithWebIdentity") {
            return Action::Forward;
        }
        assert!(request.field("WebIdentityToken").unwrap().starts_with("eyJ"));
        let field = |name: &str| session[name].as_str().unwrap().to_owned();
        let given = format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId>
             <SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            field("AccessKeyId"),
            field("SecretAccessKey"),
            field("Token"),
            field("Expiration")
        );
        Action::Answer("HTTP/1.1 200 OK\r\ncontent-type: text/xml".into(), given)
    });
    let sts_endpoint = sts.endpoint();
    let always = [("AWS_ENDPOINT_URL_STS", sts_endpoint.as_str()), ("AWS_EC2_METADATA_DISABLED", "true")];
    for (name, variables) in [
        ("chained", vec![("AWS_CONFIG_FILE", config.path()), ("AWS_SHARED_CREDENTIALS_FILE", credentials)]),
        (
            "web",
            vec![
                ("AWS_CONFIG_FILE", "/dev/null"),
                ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path()),
                ("AWS_ROLE_ARN", &role),
                ("AWS_REGION", "us-east-1"),
            ],
        ),
    ] {
        let variables: Vec<_> = always.into_iter().chain(variables).collect();
        let standby = Cluster::standby_with(&variables);
        let mut client = standby.session(&db.name, "postgres");
        let exported = db.export_by(&mut client, name, "SELECT 1 AS a");
        assert_eq!(exported.unwrap_or_else(|error| panic!("{name}: {error:?}")).documents, 1);
    }
}
