//! Help for the people who set an integration up: whether it works, and which policies it needs.

use serde_json::Value;

use super::fixture::{Action, Database, Gateway, Integration, Session, StandIn, hung_endpoint, literal, refused, wait_for};

/// Steps of `validate_integration` and whether each worked, and all that it said.
fn validate(client: &mut Session, arguments: &str) -> Result<(String, String), postgres::Error> {
    let rows =
        client.query(&format!("SELECT step, ok, detail, meaning FROM s3_export.validate_integration({arguments})"), &[])?;
    let ok = |row: &postgres::Row| row.get::<_, Option<bool>>(1).map_or("untried".to_owned(), |ok| ok.to_string());
    let steps = rows.iter().map(|row| format!("{}={}", row.get::<_, &str>(0), ok(row)));
    let words = rows.iter().map(|row| format!("{} {}\n", row.get::<_, &str>(2), row.get::<_, &str>(3)));
    Ok((steps.collect::<Vec<_>>().join(" "), words.collect()))
}

#[test]
fn validate_integration_tries_all_that_an_export_needs_and_leaves_nothing() {
    let db = Database::new("validate");
    let mut client = db.client();
    let prefix = db.prefix();
    let (steps, words) = validate(&mut client, &format!("'local', '{}'", db.bucket.uri(&prefix))).unwrap();
    assert_eq!(
        steps,
        "region=true credentials=true put=true head=true conditional put=true multipart=true conditional multipart=true delete=true"
    );
    assert!(words.contains(&prefix), "{words}");
    db.bucket.nothing_left(&prefix);
    // The first allowed location is the default.
    assert!(validate(&mut client, "'local'").unwrap().0.ends_with("delete=true"));
}

#[test]
fn validate_integration_says_which_step_fails_and_what_that_means() {
    let db = Database::new("validate_fails");
    let mut client = db.client();
    let wrong = Integration { name: "wrong", secret_access_key: "wrong".into(), ..Integration::local() };
    wrong.create(&mut client).unwrap();
    let (steps, words) = validate(&mut client, "'wrong'").unwrap();
    assert_eq!(
        steps,
        "region=true credentials=true put=false head=untried conditional put=untried multipart=false conditional multipart=untried delete=untried"
    );
    assert!(words.contains("SignatureDoesNotMatch") && words.contains("s3_export.iam_policy"), "{words}");
    // A store that lets nobody delete.
    let gateway = Gateway::to(&Integration::local().endpoint, |request| {
        if request.head.starts_with("DELETE") {
            Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into())
        } else {
            Action::Forward
        }
    });
    Integration { name: "write-only", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut client).unwrap();
    let prefix = db.prefix();
    let (steps, words) = validate(&mut client, &format!("'write-only', '{}'", db.bucket.uri(&prefix))).unwrap();
    assert_eq!(
        steps,
        "region=true credentials=true put=true head=true conditional put=true multipart=false conditional multipart=untried delete=false"
    );
    assert!(words.contains("s3:DeleteObject is needed"), "{words}");
    Integration { name: "nowhere", endpoint: "http://127.0.0.1:1".into(), ..Integration::local() }.create(&mut client).unwrap();
    assert!(validate(&mut client, "'nowhere'").unwrap().1.contains("cannot be reached"));
}

#[test]
fn validate_integration_names_a_role_that_cannot_be_assumed() {
    let db = Database::new("validate_role");
    let mut client = db.client();
    create_role(&mut client, &StandIn { external_id: "wrong-id".into(), ..StandIn::ministack() });
    let (steps, words) = validate(&mut client, "'role'").unwrap();
    assert!(steps.starts_with("region=true credentials=false put=untried"), "{steps}");
    assert!(words.contains("role/export") && !words.contains("wrong-id"), "{words}");
    client
        .batch_execute(&format!(
            "UPDATE s3_export.integrations SET aws_external_id = '{}' WHERE name = 'role'",
            StandIn::ministack().external_id
        ))
        .unwrap();
    let (steps, words) = validate(&mut client, "'role'").unwrap();
    assert!(!steps.contains("false"), "{steps}");
    assert!(words.contains("session s3_export-postgres of arn:aws:iam"), "{words}");
}

#[test]
fn validate_integration_refuses_what_an_export_would() {
    let db = Database::new("validate_refuses");
    let mut client = db.client();
    for (arguments, sqlstate) in
        [("'absent'", "42704"), ("NULL", "22004"), ("'local', 's3://elsewhere'", "42501"), ("'local', 'https://x'", "22023")]
    {
        refused(validate(&mut client, arguments)).sqlstate(sqlstate);
    }
    Integration { name: "anywhere", allowed_locations: "{s3://}", ..Integration::local() }.create(&mut client).unwrap();
    refused(validate(&mut client, "'anywhere'")).sqlstate("22023").hint("uri");
    // A member exports; whether an integration works is for those who made it.
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    refused(validate(&mut member, "'local'")).sqlstate("42501").message("permission denied for function");
}

#[test]
fn a_cancel_reaches_a_validation() {
    let db = Database::new("validate_hung");
    Integration { name: "hung", endpoint: hung_endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let running = db.client().start("SELECT * FROM s3_export.validate_integration('hung')");
    let mut witness = db.client();
    wait_for("the validation to wait", || witness.sees_waiting(running.pid).then_some(()));
    witness.execute("SELECT pg_terminate_backend($1)", &[&running.pid]).unwrap();
    let (_, outcome) = running.join_within(std::time::Duration::from_secs(10));
    refused(outcome).sqlstate("57P01");
}

fn create_role(client: &mut Session, stand_in: &StandIn) {
    let StandIn { endpoint, access_key_id, secret_access_key, role, external_id } = stand_in;
    client
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('role', access_key_id => {}, secret_access_key => {}, aws_role => '{role}',
                 aws_external_id => '{external_id}', endpoint => '{endpoint}', path_style => true,
                 allowed_locations => '{{s3://exports/team}}', options => '{{\"sts_endpoint\": \"{endpoint}\"}}')",
            literal(access_key_id),
            literal(secret_access_key)
        ))
        .unwrap();
}

#[test]
fn iam_policy_is_the_least_for_the_allowed_locations() {
    let db = Database::new("iam_policy");
    let mut client = db.client();
    client
        .batch_execute(
            r#"SELECT s3_export.create_integration('keyed', access_key_id => 'K', secret_access_key => 'S', region => 'cn-north-1',
                 allowed_locations => '{s3://bucket-a/team,s3://bucket-b}',
                 options => '{"sse": "aws:kms", "kms_key_id": "arn:aws-cn:kms:cn-north-1:012345678901:key/a-b"}')"#,
        )
        .unwrap();
    let policy: Value = serde_json::from_str(&client.text("SELECT s3_export.iam_policy('keyed')")).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let actions: Vec<String> = statements.iter().map(|statement| statement["Action"].to_string()).collect();
    assert_eq!(
        actions.join(" "),
        r#""s3:PutObject" "s3:AbortMultipartUpload" "s3:DeleteObject" "s3:DeleteObjectVersion" ["kms:GenerateDataKey","kms:Decrypt"]"#
    );
    assert_eq!(statements[0]["Resource"].to_string(), r#"["arn:aws-cn:s3:::bucket-a/team/*","arn:aws-cn:s3:::bucket-b/*"]"#);
    assert_eq!(statements[4]["Resource"], "arn:aws-cn:kms:cn-north-1:012345678901:key/a-b");
    assert!(statements.iter().all(|statement| statement["Sid"].is_string()));
    // A run with a key needs the same, and a look at the manifest of an earlier run.
    let run_key: Value = serde_json::from_str(&client.text("SELECT s3_export.iam_policy('keyed', 'run_key')")).unwrap();
    let more = run_key["Statement"].as_array().unwrap().strip_prefix(statements.as_slice()).unwrap();
    let more: Vec<String> = more.iter().map(|statement| format!("{} {}", statement["Action"], statement["Resource"])).collect();
    assert_eq!(
        more,
        [
            r#""s3:GetObject" ["arn:aws-cn:s3:::bucket-a/team/*.manifest","arn:aws-cn:s3:::bucket-b/*.manifest"]"#,
            r#""s3:ListBucket" "arn:aws-cn:s3:::bucket-a""#,
            r#""s3:ListBucket" "arn:aws-cn:s3:::bucket-b""#,
        ]
    );
    let cleanup = client.text("SELECT s3_export.iam_policy('keyed', 'cleanup')");
    assert!(cleanup.contains("s3:ListBucket") && !cleanup.contains("PutObject"), "{cleanup}");
    refused(client.query("SELECT s3_export.iam_policy('keyed', 'base')", &[])).sqlstate("55000").message("assumes no role");
    create_role(&mut client, &StandIn::ministack());
    let base: Value = serde_json::from_str(&client.text("SELECT s3_export.iam_policy('role', 'base')")).unwrap();
    assert_eq!(base["Statement"][0]["Resource"], StandIn::ministack().role);
    assert_eq!(base["Statement"].as_array().unwrap().len(), 1);
    refused(client.query("SELECT s3_export.iam_policy('keyed', 'all')", &[])).sqlstate("22023").hint("cleanup").hint("run_key");
    refused(client.query("SELECT s3_export.iam_policy('absent')", &[])).sqlstate("42704");
    refused(client.query("SELECT s3_export.iam_policy(NULL)", &[])).sqlstate("22004");
}

#[test]
fn trust_policy_names_the_integrations_own_identity_and_the_external_id() {
    let db = Database::new("trust_policy");
    let mut client = db.client();
    create_role(&mut client, &StandIn::ministack());
    let trust = |client: &mut Session, arguments: &str| -> Value {
        serde_json::from_str(&client.text(&format!("SELECT s3_export.trust_policy({arguments})"))).unwrap()
    };
    let policy = trust(&mut client, "'role'");
    let statement = &policy["Statement"][0];
    assert_eq!(statement["Principal"]["AWS"], "arn:aws:iam::000000000000:user/exporter");
    assert_eq!(statement["Condition"]["StringEquals"]["sts:ExternalId"], StandIn::ministack().external_id);
    let given = trust(&mut client, "'role', principal => 'arn:aws:iam::012345678901:root'");
    assert_eq!(given["Statement"][0]["Principal"]["AWS"], "arn:aws:iam::012345678901:root");
    refused(client.query("SELECT s3_export.trust_policy('local')", &[])).sqlstate("55000").message("assumes no role");
    client
        .batch_execute(
            "UPDATE s3_export.integrations SET sts_endpoint = 'http://127.0.0.1:1' WHERE name = 'role';
                          SELECT s3_export.set_credentials('role', 'K', 'S')",
        )
        .unwrap();
    refused(client.query("SELECT s3_export.trust_policy('role')", &[])).sqlstate("08001").hint("principal =>");
    // It shows the external id, which members do not see.
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    refused(member.query("SELECT s3_export.trust_policy('role')", &[])).sqlstate("42501");
}
