//! Each SQL block of the README runs as it stands there, in order, in psql; only what names a place, a key or a person of the
//! reader's is put in. What administrators do is done by a superuser, all else by the member that the first block makes.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::fixture::{Database, Integration, ServerFile, StandIn, literal};

const README: &str = include_str!("../../README.md");
/// Tables that a reader has before the first block.
const SHOP: &str =
    "CREATE TABLE orders AS SELECT i AS id, 'name ' || i AS name, current_date - i % 3 AS day FROM generate_series(1, 2500) i;
    CREATE SCHEMA commons; CREATE TABLE commons.analytics AS SELECT i AS id, 'FR' AS country FROM generate_series(1, 10) i";
/// A stand-in for pg_cron, which `cron` tests itself: it runs a statement once and at once.
const CRON: &str = r"CREATE SCHEMA cron; CREATE TABLE cron.job_run_details (start_time timestamptz, status text, return_message text);
    CREATE FUNCTION cron.schedule(name text, schedule text, command text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
        IF schedule !~ '^([0-9*]+ ){4}[0-9*]+$' THEN RAISE '% is no schedule', schedule; END IF;
        EXECUTE command; RETURN 1;
    END $$";
/// Texts by which a block is known for an administrator's.
const ADMINISTRATION: [&str; 5] =
    ["CREATE EXTENSION", "create_integration", "set_credentials", "ALTER DATABASE", "s3_export.cleanup"];

/// The blocks that are SQL, each with the number of its line.
fn blocks() -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut is_sql = false;
    for (number, line) in README.lines().enumerate() {
        if line == "```sql" {
            is_sql = true;
            blocks.push((number + 2, String::new()));
        } else if line.starts_with("```") {
            is_sql = false;
        } else if let (true, Some((_, block))) = (is_sql, blocks.last_mut()) {
            *block += line;
            block.push('\n');
        }
    }
    blocks
}

/// Texts for the placeholders of a block: first the placeholders that contain others.
fn places(db: &Database, analyst: &str, key_file: &str, block: &str) -> Vec<(&'static str, String)> {
    const ASSUMES: &str = "aws_role => 'arn:aws:iam::012345678901:role/export'";
    let (local, role) = (Integration::local(), StandIn::ministack());
    let assumes = block.contains(ASSUMES);
    let (key, secret) = if assumes {
        (literal(&role.access_key_id), literal(&role.secret_access_key))
    } else {
        (literal(&local.access_key_id), literal(&local.secret_access_key))
    };
    // The store here is not Amazon's, and the role is the stand-in's.
    let endpoint = if assumes { &role.endpoint } else { &local.endpoint };
    let here = format!("endpoint => '{endpoint}', path_style => true");
    let assumed = format!(
        "aws_role => '{}', aws_external_id => '{}', {here}, options => '{{\"sts_endpoint\": \"{endpoint}\"}}'",
        role.role, role.external_id
    );
    let keys = format!("access_key_id => {key}, secret_access_key => {secret}");
    let of_lake = format!("create_integration('lake', {keys}");
    let lake = if assumes { of_lake.clone() } else { format!("{of_lake}, {here}") };
    vec![
        ("create_integration('lake', access_key_id => 'AKIA…', secret_access_key => '…'", lake),
        ("access_key_id => 'AKIA…', secret_access_key => '…'", keys),
        ("access_key_id => 'GOOG…', secret_access_key => '…'", "access_key_id => 'GOOG', secret_access_key => 'x'".to_owned()),
        ("'AKIA…', '…'", format!("{key}, {secret}")),
        ("'AKIA…'", key),
        (ASSUMES, assumed),
        ("s3://analyticsdata", db.bucket.uri(&db.name)),
        ("'01a20fdb-b929-…'", "(SELECT export_id FROM s3_export.exports ORDER BY queued_at DESC LIMIT 1)".to_owned()),
        ("'/run/secrets/lake'", literal(key_file)),
        ("INTEGRATION = 's3export'", "INTEGRATION = 'lake'".to_owned()),
        ("<account>", "account".to_owned()),
        ("analyst", analyst.to_owned()),
        ("DATABASE shop", format!("DATABASE {}", db.name)),
    ]
}

/// A line of a superuser's block that says whose it is, is run by him.
fn in_sessions(sql: &str, member: &str) -> String {
    let mut commands = String::new();
    for line in sql.lines() {
        if line.ends_with(&format!("  -- as {member}")) {
            commands += &format!("\\connect - {member}\n");
        }
        commands += line;
        commands.push('\n');
    }
    commands
}

#[test]
fn every_sql_block_runs() {
    let db = Database::empty("readme", "");
    let (mut client, analyst) = (db.client(), db.role("analyst", &[]));
    client
        .batch_execute(&format!(
            "{SHOP}; {CRON}; GRANT SELECT ON orders, commons.analytics, cron.job_run_details TO {analyst};
            GRANT USAGE ON SCHEMA commons, cron TO {analyst}"
        ))
        .unwrap();
    let local = Integration::local();
    let key_file =
        format!("[default]\naws_access_key_id={}\naws_secret_access_key={}\n", local.access_key_id, local.secret_access_key);
    let key_file = ServerFile::of(&db, "keys", &key_file);
    let secrets = std::env::temp_dir().join(&db.name);
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("secret.txt"), &local.secret_access_key).unwrap();

    let mut blocks = blocks();
    assert!(blocks.len() > 15);
    // The first shows what the second makes possible.
    blocks.swap(0, 1);
    for (line, block) in blocks {
        let mut sql = block.clone();
        for (place, value) in places(&db, &analyst, key_file.path(), &block) {
            sql = sql.replace(place, &value);
        }
        let sql = in_sessions(&sql, &analyst);
        let role = if ADMINISTRATION.iter().any(|word| block.contains(word)) { "postgres" } else { &analyst };
        let statements: String = sql.lines().filter_map(|line| line.split("--").next()).collect();
        assert!(!statements.contains('…'), "README.md:{line} has a place that nothing is put into: {statements}");
        let mut psql = db.environment().program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", &db.name]).current_dir(&secrets);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "README.md:{line}: {}\n{sql}", String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_dir_all(&secrets).unwrap();
}
