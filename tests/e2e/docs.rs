//! Tests of the documentation: each SQL block of README and of `docs/` runs, and the tables agree with the code.
//!
//! The blocks of a page run in order, in psql, in a database of the page's own, as the role `analyst`, or as the role that their first
//! line names. What a reader puts in, such as a bucket, a key or an id, is put in here.

mod tables;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::fixture::{Database, Integration, ServerFile, StandIn, literal};

/// Tables that a reader has before the first export.
const SHOP: &str =
    "CREATE TABLE orders AS SELECT i AS id, 'name ' || i AS name, current_date - i % 3 AS day FROM generate_series(1, 2500) i;
    CREATE SCHEMA commons; CREATE TABLE commons.analytics AS SELECT i AS id, 'FR' AS country FROM generate_series(1, 10) i";
/// Stand-in for pg_cron: `cron.schedule` runs its command once, at once. `cron.rs` tests pg_cron itself.
const CRON: &str = r"CREATE SCHEMA cron; CREATE TABLE cron.job_run_details (start_time timestamptz, status text, return_message text);
    CREATE FUNCTION cron.schedule(name text, schedule text, command text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
        IF schedule !~ '^([0-9*]+ ){4}[0-9*]+$' THEN RAISE '% is no schedule', schedule; END IF;
        EXECUTE command; RETURN 1;
    END $$";
/// The page whose reader has no extension yet.
const QUICK_START: &str = "docs/quickstart.md";
const AS_SUPERUSER: &str = "-- as a superuser";
const AS_ADMINISTRATOR: &str = "-- as an administrator";

/// The text of a file of the repository.
fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The pages: README and each Markdown file below `docs/`.
fn pages() -> Vec<String> {
    fn walk(root: &Path, folder: &Path, pages: &mut Vec<String>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(root, &path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec!["README.md".to_owned()];
    walk(root, &root.join("docs"), &mut pages);
    pages
}

/// The blocks of `page` that are SQL, each with the number of its first line.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let text = file(page);
    let (mut blocks, mut is_sql): (Vec<(usize, String)>, bool) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            is_sql = kind == "sql";
            if is_sql {
                blocks.push((number + 2, String::new()));
            }
        } else if let (true, Some((_, block))) = (is_sql, blocks.last_mut()) {
            *block += line;
            block.push('\n');
        }
    }
    blocks
}

/// The database of a page, and the roles that its blocks run as.
struct Reader {
    db: Database,
    analyst: String,
    administrator: String,
    key_file: ServerFile,
    /// The folder where psql runs, with a file that holds the secret.
    folder: PathBuf,
}

impl Reader {
    fn of(page: &str) -> Self {
        let name: String = page.chars().map(|character| if character.is_ascii_lowercase() { character } else { '_' }).collect();
        let db = Database::empty(&name, "");
        let (mut client, analyst, administrator) = (db.client(), db.role("analyst", &[]), db.role("administrator", &[]));
        client
            .batch_execute(&format!(
                "{SHOP}; {CRON}; GRANT SELECT ON orders, commons.analytics, cron.job_run_details TO {analyst};
                GRANT USAGE ON SCHEMA commons, cron TO {analyst}"
            ))
            .unwrap();
        if page != QUICK_START {
            client
                .batch_execute(&format!(
                    "CREATE EXTENSION s3_export; GRANT s3_export_member TO {analyst}; GRANT s3_export_admin TO {administrator}"
                ))
                .unwrap();
            let (location, local) = (format!("{{{}}}", db.bucket.uri(&db.name)), Integration::local());
            db.create(&Integration { name: "lake", allowed_locations: &location, usage_role: &analyst, ..local });
        }
        let local = Integration::local();
        let keys = format!(
            "[default]\naws_access_key_id={}\naws_secret_access_key={}\n",
            local.access_key_id, local.secret_access_key
        );
        let key_file = ServerFile::of(&db, "keys", &keys);
        let folder = std::env::temp_dir().join(&db.name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("secret.txt"), &local.secret_access_key).unwrap();
        Reader { db, analyst, administrator, key_file, folder }
    }

    /// Each placeholder of a block, and its value. A placeholder comes before those that it contains.
    fn values(&self, block: &str) -> Vec<(&'static str, String)> {
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
            (
                "access_key_id => 'GOOG…', secret_access_key => '…'",
                "access_key_id => 'GOOG', secret_access_key => 'x'".to_owned(),
            ),
            ("'AKIA…', '…'", format!("{key}, {secret}")),
            ("'AKIA…'", key),
            (ASSUMES, assumed),
            ("s3://analyticsdata", self.db.bucket.uri(&self.db.name)),
            (
                "'01a20fdb-b929-…'",
                "(SELECT export_id FROM s3_export.exports ORDER BY queued_at DESC NULLS LAST LIMIT 1)".to_owned(),
            ),
            ("'/run/secrets/lake'", literal(self.key_file.path())),
            ("INTEGRATION = 's3export'", "INTEGRATION = 'lake'".to_owned()),
            ("<account>", "account".to_owned()),
            ("analyst", self.analyst.clone()),
            ("DATABASE shop", format!("DATABASE {}", self.db.name)),
        ]
    }

    /// Takes away what `block` is about to make, and an earlier block, or this test, has made already.
    fn make_room(&self, block: &str) {
        let mut client = self.db.client();
        // Roles belong to the cluster, which a test that was killed may have left them in.
        for made in block.split("CREATE ROLE ").skip(1) {
            let name = made.split(|end: char| !end.is_alphanumeric() && end != '_').next().unwrap();
            client.batch_execute(&format!("DROP ROLE IF EXISTS {name}")).unwrap();
        }
        if block.contains("CREATE EXTENSION s3_export") {
            client.batch_execute("DROP EXTENSION IF EXISTS s3_export").unwrap();
        } else {
            for made in block.split("create_integration('").skip(1) {
                let name = literal(made.split('\'').next().unwrap());
                client.batch_execute(&format!("DELETE FROM s3_export.integrations WHERE name = {name}")).unwrap();
            }
        }
    }

    /// Runs a block.
    fn run(&self, block: &str) -> Result<(), String> {
        self.make_room(block);
        let mut sql = block.to_owned();
        // The bucket of the test is called otherwise than the reader's, and a comment may hold any placeholder.
        for (placeholder, value) in self.values(block) {
            sql = sql.replace(placeholder, &value);
        }
        let statements: String = sql.lines().filter_map(|line| line.split("--").next()).collect();
        if statements.contains('…') {
            return Err(format!("a placeholder that nothing is put in for: {statements}"));
        }
        let role = match block.lines().next() {
            Some(AS_SUPERUSER) => "postgres",
            Some(AS_ADMINISTRATOR) => &self.administrator,
            _ => &self.analyst,
        };
        let mut psql = self.db.environment().program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", &self.db.name]).current_dir(&self.folder);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(format!("{}\n{sql}", String::from_utf8_lossy(&output.stderr))) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The queries of the configuration that the page on monitoring shows, as the role that it makes.
#[test]
fn the_queries_of_the_exporter_run() {
    let db = Database::new("docs_monitoring");
    db.export("SELECT 1 AS a");
    let monitor = db.role("monitor", &["s3_export_auditor"]);
    let page = file("docs/monitoring.md");
    let mut queries = 0;
    for block in page.split("query: |\n").skip(1) {
        let lines = block.lines().take_while(|line| line.starts_with("      "));
        db.client_as(&monitor).batch_execute(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        queries += 1;
    }
    assert!(queries >= 5, "{queries} queries");
    assert_eq!(db.client_as(&monitor).text("SELECT bytes > 0 FROM s3_export.daily_exports"), "t");
}

/// Each page up to its first block that fails; all these failures are reported together.
#[test]
fn every_sql_block_runs() {
    let (mut count, mut failures) = (0, Vec::new());
    for page in pages() {
        let blocks = blocks(&page);
        count += blocks.len();
        if blocks.is_empty() {
            continue;
        }
        let reader = Reader::of(&page);
        let failure =
            blocks.iter().find_map(|(line, block)| reader.run(block).err().map(|error| format!("{page}:{line}: {error}")));
        failures.extend(failure);
    }
    assert!(failures.is_empty(), "{} pages fail:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= 30, "{count} blocks");
}
