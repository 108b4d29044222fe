//! The server's own identity (ambient, profiles, metadata services, web identities), and roles that a caller names inline.

use serde_json::Value;

use super::fixture::{Action, Cluster, Database, Gateway, ServerFile, StandIn, literal, refused};
use super::roles::{RoleIntegration, export};

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

/// A user who may name any role can write wherever a role trusts this server.
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
