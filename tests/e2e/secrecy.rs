//! A secret shows nowhere: not in the log at its most talkative, not in what the server shows of its sessions and statements,
//! in no error, no dump, and no object.

use std::fs;

use super::fixture::{Bucket, Database, Integration, ServerFile, Session, StandIn, messages, refused};

/// The server's log of one backend since it started, multi-line entries and all.
fn logged(db: &Database, pid: i32) -> String {
    let log = fs::read(db.environment().run_dir.join("postgres.log")).unwrap();
    let (log, tag) = (String::from_utf8_lossy(&log).into_owned(), format!("[{pid}]"));
    let mut mine = false;
    let of_backend = |line: &&str| {
        // Every entry begins with a time; what follows it begins with a tab.
        if line.starts_with("20") {
            mine = line.contains(&tag);
        }
        mine
    };
    log.lines().filter(of_backend).collect::<Vec<_>>().join("\n")
}

/// A session whose every step is logged, but for the values of parameters.
fn talkative(db: &Database) -> Session {
    let mut client = db.client();
    client
        .batch_execute(
            "SET log_parameter_max_length = 0; SET log_parameter_max_length_on_error = 0; SET log_min_messages = debug5;
             SET client_min_messages = debug5; SET log_statement = 'all'; SET log_min_duration_statement = 0;
             SET log_min_error_statement = debug5; SET log_error_verbosity = verbose; SET log_executor_stats = on;
             SET s3_export.log_exports = 'all'; SET s3_export.history_query = on",
        )
        .unwrap();
    client
}

#[test]
fn a_secret_shows_nowhere_after_successes_and_failures() {
    let db = Database::new("secrecy");
    db.client().batch_execute("CREATE EXTENSION pg_stat_statements").unwrap();
    let local = Integration::local();
    let secret = local.secret_access_key.as_str();
    let mut client = talkative(&db);
    let mut witness = db.client();

    // Given as a bound parameter.
    Integration { name: "bound", ..local.clone() }.create(&mut client).unwrap();
    refused(Integration { name: "bound", ..local.clone() }.create(&mut client)).sqlstate("42710").hides(secret);
    refused(Integration { name: "bad", endpoint: "https://x//y".into(), ..local.clone() }.create(&mut client))
        .sqlstate("22023")
        .hides(secret);
    refused(Integration { name: "bad", allowed_locations: "{}", ..local.clone() }.create(&mut client))
        .sqlstate("22023")
        .hides(secret);
    let set = "SELECT s3_export.set_credentials($1, $2, $3)::text";
    client.query(set, &[&"bound", &local.access_key_id, &secret]).unwrap();
    refused(client.query(set, &[&"absent", &local.access_key_id, &secret])).sqlstate("42704").hides(secret);
    let activity = witness.text("SELECT string_agg(query, ' ') FROM pg_stat_activity");
    assert!(activity.contains("set_credentials") && !activity.contains(secret), "{activity}");

    // Given by a file.
    let content = format!("[x]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n", local.access_key_id);
    let file = ServerFile::of(&db, "credentials", &content);
    Integration { name: "filed", secret_access_key: "x".into(), ..local.clone() }.create(&mut client).unwrap();
    let from_file = "SELECT s3_export.set_credentials_from_file($1, $2)::text";
    client.query(from_file, &[&"filed", &file.path()]).unwrap();
    refused(client.query(from_file, &[&"absent", &file.path()])).sqlstate("42704").hides(secret);
    let twice = ServerFile::of(&db, "twice", &content.repeat(2));
    refused(client.query(from_file, &[&"filed", &twice.path()])).sqlstate("58P01").hides(secret);

    // Used, with success and without.
    let mut prefixes = Vec::new();
    for name in ["bound", "filed"] {
        prefixes.push(db.export_by(&mut client, name, "SELECT generate_series(1, 2500) AS a").unwrap().prefix);
        refused(db.export_by(&mut client, name, "SELECT 1 / 0 AS a")).sqlstate("22012").hides(secret);
        let absent = format!("SELECT s3_export('s3://absent-bucket/x', '{name}', 'SELECT 1 AS a')");
        refused(client.batch_execute(&absent)).hides(secret);
    }
    client.batch_execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://}'").unwrap();
    let absent = "SELECT s3_export('s3://absent-bucket/x', 'bound', 'SELECT 1 AS a')";
    refused(client.batch_execute(absent)).sqlstate("42704").hides(secret);
    client.query("SELECT * FROM s3_export.validate_integration('bound', 's3://exports/secrecy')", &[]).unwrap();
    client.batch_execute("SELECT s3_export.reseal(); SELECT s3_export.iam_policy('bound')").unwrap();
    client.query(set, &[&"bound", &"AKIAWRONG", &secret]).unwrap();
    refused(db.export_by(&mut client, "bound", "SELECT 1 AS a")).sqlstate("28000").hides(secret);

    let statements = witness.text("SELECT string_agg(query, ' ') FROM pg_stat_statements");
    assert!(statements.contains("set_credentials_from_file") && !statements.contains(secret));
    let notices = messages(&client.notices());
    assert!(!notices.is_empty() && !notices.contains(secret));
    let log = logged(&db, client.pid);
    assert!(log.contains("s3_export.set_credentials") && log.contains("CommitTransaction"), "the log is not so talkative");
    assert!(!log.contains(secret), "the server's log shows the secret");
    assert!(
        log.contains("LOG:  00000: export ") && log.contains("an export failed (SQLSTATE "),
        "the log has no line of an export"
    );
    let history = witness.text("SELECT jsonb_agg(h) FROM s3_export.history_entries AS h");
    assert!(history.contains("generate_series") && !history.contains(secret), "{history}");
    assert!(!db.dump().contains(secret), "a dump shows the secret");
    let mut objects = 0;
    for object in prefixes.iter().flat_map(|prefix| db.bucket.list(prefix)) {
        assert!(
            memchr::memmem::find(&db.bucket.get(&object.key), secret.as_bytes()).is_none(),
            "{} shows the secret",
            object.key
        );
        objects += 1;
    }
    assert_eq!(objects, 2 * 4);
    db.bucket.empty("secrecy");
}

/// The keys that STS gives are secrets too; and the external id is not for members.
#[test]
fn what_sts_gives_shows_nowhere() {
    let db = Database::new("secrecy_role");
    let gateway = super::fixture::Gateway::to(&StandIn::ministack().endpoint, |_| super::fixture::Action::Forward);
    let StandIn { access_key_id, secret_access_key, role, external_id, .. } = StandIn::ministack();
    let endpoint = gateway.endpoint();
    let options = format!(r#"{{"sts_endpoint": "{endpoint}"}}"#);
    let mut client = talkative(&db);
    let create = "SELECT s3_export.create_integration('role', $1, $2, aws_role => $3, aws_external_id => $4, endpoint => $5,
        path_style => true, usage_role => 'public', allowed_locations => '{s3://exports}', options => $6::text::jsonb)::text";
    client.query(create, &[&access_key_id, &secret_access_key, &role, &external_id, &endpoint, &options]).unwrap();
    let member = db.role("member", &["s3_export_member"]);
    client.batch_execute(&format!("SET ROLE {member}")).unwrap();
    let exported = db.export_by(&mut client, "role", "SELECT 1 AS a").unwrap();
    let error = refused(db.export_by(&mut client, "role", "SELECT 1 / 0 AS a"));
    let requests = gateway.requests();
    let token = requests.iter().find_map(|request| request.header("x-amz-security-token")).unwrap();
    let bucket = Bucket::of(&StandIn::ministack(), "exports");
    let objects: Vec<u8> = bucket.list(&exported.prefix).iter().flat_map(|object| bucket.get(&object.key)).collect();
    let seen = format!(
        "{} {} {} {} {}",
        db.client().text("SELECT jsonb_agg(h) FROM s3_export.history_entries AS h"),
        logged(&db, client.pid),
        messages(&client.notices()),
        db.client().text("SELECT string_agg(query, ' ') FROM pg_stat_activity"),
        String::from_utf8(objects).unwrap()
    );
    for secret in [token, &secret_access_key, &external_id] {
        error.hides(secret);
        assert!(!seen.contains(secret), "{secret} shows");
    }
}
