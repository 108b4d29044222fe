//! Clients and databases of many encodings, names in three scripts: each error has its own SQLSTATE, whatever characters the
//! client lacks, and neither the session nor the server is harmed by a message.
//!
//! The test's own client speaks UTF-8 alone, so psql is the client here. Its script is ASCII; names come to life in the server.

use std::io::Write;
use std::process::Stdio;

use super::fixture::{Action, Database, Gateway, Integration, Session, ended, enqueued, literal, refused, wait_for};

/// Client encodings of psql, where the database's encoding can be converted to them.
const CLIENTS: [&str; 6] = ["UTF8", "LATIN1", "WIN1252", "WIN1250", "SJIS", "EUC_JP"];

/// A case of a script: what it is called, the statement, and the SQLSTATE that it is to end with.
struct Case(String, String, &'static str);

/// A name as an expression in ASCII, of a database in that encoding.
fn expression(name: &str, encoding: &str) -> String {
    if encoding == "SQL_ASCII" {
        let bytes: String = name.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        return format!("E'{bytes}'");
    }
    let points: String = name.chars().map(|character| format!("\\{:04x}", u32::from(character))).collect();
    format!("U&'{points}'")
}

/// Every way for a message to hold `name`.
fn cases(name: &str, encoding: &str, uri: &str) -> Vec<Case> {
    let export = |place: &str, integration: &str, query: &str, more: &str| {
        format!("SELECT num_docs_inserted FROM s3_export({place}, {integration}, {query}{more})")
    };
    let uri = format!("{} || {name}", literal(uri));
    let ok = |query: &str| export(&uri, "'local'", query, "");
    let column = format!("'SELECT 1 AS \"' || {name} || '\"'");
    let two_columns = format!("{column} || ', 2 AS \"' || {name} || '\"'");
    let of_type = |value: &str| format!("$$SELECT {value} AS \"$$ || {name} || '\"'");
    let kept = format!("{name} || 'x'");
    let mut cases = Vec::new();
    let mut refuse = |what: &str, sqlstate: &'static str, statement: String| {
        cases.push(Case(what.to_owned(), statement, sqlstate));
    };
    refuse("a statement that writes", "0A000", ok("'DELETE FROM work'"));
    refuse("two columns of one name", "42701", ok(&two_columns));
    refuse("an unknown integration", "42704", export(&uri, &kept, "'SELECT 1 AS a'", ""));
    refuse(
        "a location that is not allowed",
        "42501",
        export(&format!("'s3://other/' || {name}"), "'local'", "'SELECT 1 AS a'", ""),
    );
    refuse(
        "an unknown column",
        "42703",
        export(&uri, "'local'", "'SELECT 1 AS a'", &format!(", partition_by => ARRAY[{name}]")),
    );
    refuse(
        "an unknown option",
        "22023",
        export(&uri, "'local'", "'SELECT 1 AS a'", &format!(", options => jsonb_build_object({name}, 1)")),
    );
    refuse(
        "an integration that is there",
        if encoding == "SQL_ASCII" { "23514" } else { "42710" },
        format!(
            "SELECT s3_export.create_integration({name}, access_key_id => 'K', secret_access_key => 'S', allowed_locations => ARRAY['s3://exports'], usage_role => 's3_export_member')"
        ),
    );
    refuse("a store that refuses", "42501", export(&uri, "'refusing'", "'SELECT 1 AS a'", ""));
    refuse(
        "a number that Parquet lacks",
        "22003",
        export(&uri, "'local'", &of_type("'NaN'::numeric(5, 2)"), ", format => 'parquet'"),
    );
    refuse(
        "a time that Parquet lacks",
        "22008",
        export(&uri, "'local'", &of_type("'infinity'::timestamp"), ", format => 'parquet'"),
    );
    refuse(
        "a statement of Rockset's",
        "42601",
        format!("SELECT s3_export('INSERT INTO ''s3://exports/x'' INTEGRATION = ''' || {name} || ''' AS NONSENSE SELECT 1')"),
    );
    refuse(
        "a limit of time",
        "57014",
        export(&uri, "'local'", "'SELECT pg_sleep(9)::text AS a'", ", options => '{\"timeout\": \"50ms\"}'"),
    );
    refuse("an error of a function that the query calls", "P0001", ok("'SELECT boom() AS a'"));
    let raised = format!("'SELECT \"' || {name} || '\"'");
    refuse(
        "an error that names a constraint, a table and more",
        "P0042",
        ok(&format!("'SELECT named(''' || {name} || ''') AS a'")),
    );
    cases.push(Case(
        "the query's own error".to_owned(),
        format!("DO $x$ BEGIN PERFORM s3_export({uri}, 'local', {raised}); END $x$"),
        "42703",
    ));
    let mut passes = |what: &str, statement: String| cases.push(Case(what.to_owned(), statement, "00000"));
    passes(
        "an error that is kept",
        format!(
            "DO $x$ BEGIN PERFORM s3_export('s3://other/' || {name}, 'local', 'SELECT 1 AS a'); EXCEPTION WHEN insufficient_privilege THEN INSERT INTO errors VALUES (SQLERRM); END $x$"
        ),
    );
    passes("what is kept is text", "SELECT sum(length(convert_to(m, 'UTF8'))) FROM errors".to_owned());
    for round in 0..3 {
        passes(&format!("BEGIN {round}"), "BEGIN".to_owned());
        passes(&format!("an export in a transaction {round}"), ok(&column));
        passes(&format!("ROLLBACK {round}"), "ROLLBACK".to_owned());
    }
    passes("BEGIN, work", "BEGIN".to_owned());
    passes("work", "INSERT INTO work VALUES (1)".to_owned());
    passes("SAVEPOINT", "SAVEPOINT s".to_owned());
    passes("an export after a savepoint", export(&uri, "'local'", &of_type("'x'"), ""));
    passes("ROLLBACK TO", "ROLLBACK TO s".to_owned());
    passes("more work", "INSERT INTO work VALUES (2)".to_owned());
    passes("COMMIT, work", "COMMIT".to_owned());
    passes("the work is there", "DO $x$ BEGIN ASSERT (SELECT count(*) FROM work) = 2; TRUNCATE work; END $x$".to_owned());
    passes(
        "an exception handler",
        format!(
            "DO $x$ BEGIN BEGIN PERFORM s3_export({uri}, 'local', {column}); RAISE EXCEPTION 'boom'; EXCEPTION WHEN raise_exception THEN NULL; END; END $x$"
        ),
    );
    passes("an export that is committed, with notices and a line in the log", ok(&column));
    cases
}

const PREAMBLE: &str = "\\set QUIET on
SET s3_export.cleanup_timeout = 0; SET s3_export.progress_interval = '1ms'; SET s3_export.log_exports = on;
SELECT pg_backend_pid() AS pid \\gset
\\setenv PID :pid
BEGIN; SELECT num_docs_inserted FROM s3_export('s3://exports/PREFIX', 'local', 'SELECT 1 AS a'); ROLLBACK;
\\! echo \"counted|$(ls /proc/$PID/task | wc -l)|$(ls -l /proc/$PID/fd | grep -c -e socket -e eventfd)\"
";
const EPILOGUE: &str =
    "\\! echo \"counted|$(ls /proc/$PID/task | wc -l)|$(ls -l /proc/$PID/fd | grep -c -e socket -e eventfd)\"
SELECT 'locks|' || count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT 'encoding|' || current_setting('client_encoding');
";

/// Returns what psql printed as a client of that encoding; `None`: the server does not talk to such a client.
fn run(db: &Database, client: &str, script: &str) -> Option<(String, Vec<u8>)> {
    let mut psql = db.environment().program("psql");
    psql.args(["-X", "-A", "-t", "-d", &db.name]).env("PGCLIENTENCODING", client);
    let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let script = script.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.is_empty() && String::from_utf8_lossy(&output.stderr).contains("conversion between") {
        return None;
    }
    Some((said, output.stderr))
}

fn every_client_of(encoding: &str, names: &[&str]) {
    let options = format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
    let db = Database::with_options(&format!("hostile_{}", encoding.to_lowercase()), &options);
    let mut witness = db.client();
    witness.batch_execute("CREATE TABLE work (i int); CREATE TABLE errors (m text); CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''boom''; END'").unwrap();
    witness
        .batch_execute(
            "CREATE FUNCTION named(n text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'boom' USING ERRCODE = 'P0042', SCHEMA = n, TABLE = n, COLUMN = n, DATATYPE = n, CONSTRAINT = n;
             END $$",
        )
        .unwrap();
    let foreign = "Größe ИМЯ 日本語";
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| match request.step() {
        "put" => Action::Answer(
            "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close".to_owned(),
            format!("<Error><Code>AccessDenied</Code><Message>{foreign}</Message><RequestId>1</RequestId></Error>"),
        ),
        _ => Action::Forward,
    });
    Integration { name: "refusing", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut witness).unwrap();
    let mut tried = 0;
    for client in CLIENTS {
        let mut script = PREAMBLE.replace("PREFIX", &db.prefix());
        let mut expected = Vec::new();
        for name in names {
            let expression = expression(name, encoding);
            // Where nothing is known of an encoding, nothing but ASCII is printable.
            if tried == 0 && encoding != "SQL_ASCII" {
                Integration { name, ..Integration::local() }.create(&mut witness).unwrap();
            }
            for Case(what, statement, state) in cases(&expression, encoding, &db.bucket.uri(&db.prefix())) {
                script.push_str(&format!("{statement};\n\\echo case|{}|:SQLSTATE\n", expected.len()));
                expected.push((format!("{encoding}, {client}, {name}: {what}"), state));
            }
        }
        script.push_str(EPILOGUE);
        let Some((said, complaints)) = run(&db, client, &script) else { continue };
        tried += 1;
        let complaints = String::from_utf8_lossy(&complaints).into_owned();
        let fields = |kind: &str| -> Vec<Vec<String>> {
            let of_kind = said.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix('|'));
            of_kind.map(|line| line.split('|').map(str::to_owned).collect()).collect()
        };
        let states: Vec<String> = fields("case").into_iter().map(|fields| fields[1].clone()).collect();
        let mut wrong = Vec::new();
        for (index, (what, wanted)) in expected.iter().enumerate() {
            let found = states.get(index).map_or("nothing", String::as_str);
            if found != *wanted {
                wrong.push(format!("{what}: {found} instead of {wanted}"));
            }
        }
        let errors: Vec<&str> = complaints.lines().filter(|line| !line.starts_with("NOTICE")).collect();
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), errors.join("\n"));
        assert_eq!(fields("encoding"), [[client]]);
        assert_eq!(fields("locks"), [["0"]], "{encoding}, {client}");
        let counted = fields("counted");
        assert_eq!(counted[0], counted[1], "{encoding}, {client}: threads and sockets before and after");
        let warned = complaints.matches("may remain in S3").count();
        assert!(warned > 5 * names.len(), "{encoding}, {client}: {warned} warnings\n{complaints}");
        assert!(!complaints.contains("while in ABORT state"), "{encoding}, {client}: {complaints}");
        assert_eq!(witness.text("SELECT 1"), "1");
    }
    assert!(tried >= 1, "{encoding}");
    terminated_and_gone(&db, &mut witness, names[names.len() - 1], encoding);
    job_keeps_its_error(&db, names[0]);
}

/// A session that is terminated with an export that cannot be cleaned up leaves no lock and no pin behind.
fn terminated_and_gone(db: &Database, witness: &mut Session, name: &str, encoding: &str) {
    witness.batch_execute("CREATE TABLE locked (i int); CREATE TABLE pinned AS SELECT generate_series(1, 10000) AS i").unwrap();
    let mut client = db.client();
    let latin = if encoding == "UTF8" { "SET client_encoding = 'LATIN1'" } else { "" };
    client.batch_execute(&format!("{latin}; SET s3_export.cleanup_timeout = 0; BEGIN; LOCK TABLE locked; DECLARE c CURSOR FOR TABLE pinned; FETCH 1 FROM c")).unwrap();
    let uri = db.bucket.uri(&db.prefix());
    let location = format!("{} || {}", literal(&uri), expression(name, encoding));
    client.text(&format!("SELECT num_docs_inserted FROM s3_export({location}, 'local', 'SELECT 1 AS a')"));
    let pid = client.pid;
    witness.text(&format!("SELECT pg_terminate_backend({pid})"));
    wait_for("the backend's end", || {
        (witness.text(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0").then_some(())
    });
    assert_eq!(witness.text(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid}")), "0");
    db.client().batch_execute("SET statement_timeout = '30s'; DROP TABLE locked, pinned").unwrap();
    if encoding == "UTF8" {
        let log = std::fs::read(db.environment().run_dir.join("postgres.log")).unwrap();
        assert!(
            String::from_utf8_lossy(&log).contains(&format!("Not known to be deleted: {uri}{name}/")),
            "the log has not the name"
        );
    }
}

/// A worker hands on an error's message as it is.
fn job_keeps_its_error(db: &Database, name: &str) {
    let mut client = db.client();
    let id = enqueued(db, &mut client, &db.prefix(), &format!("SELECT \"{name}\""), "");
    refused(ended(&mut client, &id)).sqlstate("42703").message(name);
    let kept = client.text(&format!("SELECT error_message FROM s3_export.exports WHERE export_id = '{id}'"));
    assert!(kept.contains(name), "{kept}");
    let id = enqueued(db, &mut client, &db.prefix(), &format!("SELECT 1 AS \"{name}\", 2 AS \"{name}\""), "");
    refused(ended(&mut client, &id)).sqlstate("42701").message(name);
}

#[test]
fn every_client_of_a_utf8_database() {
    every_client_of("UTF8", &["Größe", "ИМЯ", "日本語"]);
}

#[test]
fn every_client_of_a_latin1_database() {
    every_client_of("LATIN1", &["Größe"]);
}

#[test]
fn every_client_of_an_euc_jp_database() {
    every_client_of("EUC_JP", &["日本語", "ИМЯ"]);
}

#[test]
fn every_client_of_an_euc_kr_database() {
    every_client_of("EUC_KR", &["한국", "ИМЯ"]);
}

#[test]
fn every_client_of_a_win1251_database() {
    every_client_of("WIN1251", &["ИМЯ"]);
}

#[test]
fn every_client_of_a_win1252_database() {
    every_client_of("WIN1252", &["Ávila"]);
}

#[test]
fn every_client_of_an_sql_ascii_database() {
    every_client_of("SQL_ASCII", &["Größe", "ИМЯ", "日本語"]);
}
