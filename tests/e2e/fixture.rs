//! A database of its own for each test, with the extension and an integration `local` that writes to the local S3 server.
//!
//! ```text
//! Database::new("name") ──► .client(), .client_as(role) ──► Session: a connection, its backend and its notices
//!   ├─ .export(query) ──► Exported: what the function answered, and where the files are
//!   └─ .bucket ──► Bucket: what really lies in S3
//! ```
//!
//! Databases, roles and keys carry a random suffix, so tests run side by side, and a killed run disturbs none after it.

mod bucket;
mod carried;
mod cluster;
mod download;
mod environment;
mod gateway;
pub mod job;
mod process;
mod proxy;
mod refusal;
mod session;
mod tunnels;

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use postgres::error::DbError;
use postgres::{Client, Row};
use uuid::Uuid;

pub use self::bucket::{Bucket, lines};
pub use self::carried::Carried;
pub use self::cluster::{Cluster, free_port};
pub use self::download::{Download, cell};
pub use self::environment::{Environment, StandIn};
pub use self::gateway::{Action, Gateway, Request};
pub use self::job::{cancel_job, ended, enqueued, status, wait_for_status};
pub use self::process::{PeakMemory, descriptors, private_memory, threads};
pub use self::proxy::{Proxy, hung_endpoint, stalling_endpoint, unreachable_endpoint};
pub use self::refusal::{Refusal, refused};
pub use self::session::{Running, Session, wait_for};
pub use self::tunnels::{Tunnel, TunnelProxy};

/// A database of its own; dropped with its roles, and with what its exports left in the bucket.
pub struct Database {
    pub name: String,
    pub bucket: Bucket,
    environment: Environment,
    roles: RefCell<Vec<String>>,
}

/// The answer of `s3_export(…)`.
#[derive(Debug, Clone)]
pub struct Exported {
    pub documents: i64,
    pub files: i64,
    pub bytes: i64,
    pub export_id: Uuid,
    /// URL of the manifest.
    pub manifest: String,
    /// Key prefix the export was told to write to.
    pub prefix: String,
}

impl Exported {
    /// `row`: the function's, and its `export_id` as text under the name `id`.
    pub fn from_row(row: &Row, prefix: &str) -> Self {
        Exported {
            documents: row.get("num_docs_inserted"),
            files: row.get("num_files_written"),
            bytes: row.get("num_bytes_written"),
            export_id: row.get::<_, String>("id").parse().unwrap(),
            manifest: row.get("manifest"),
            prefix: prefix.to_owned(),
        }
    }
}

impl Database {
    /// `name`: letters, digits and underscores, best the test's own. A copy of the process's template: copying takes a
    /// fraction of the time that CREATE EXTENSION takes.
    pub fn new(name: &str) -> Self {
        static TEMPLATE: OnceLock<String> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let template = Self::with_options("template", "");
            let name = template.name.clone();
            // The servers are thrown away as a whole, and the template with them.
            std::mem::forget(template);
            name
        });
        Self::empty(name, &format!("TEMPLATE {template}"))
    }

    /// `options`: of CREATE DATABASE.
    pub fn with_options(name: &str, options: &str) -> Self {
        let database = Self::empty(name, options);
        database.client().batch_execute("CREATE EXTENSION s3_export").unwrap();
        database.create(&Integration::local());
        database
    }

    /// Without the extension.
    pub fn empty(name: &str, options: &str) -> Self {
        let environment = Environment::get();
        let suffix = &Uuid::new_v4().simple().to_string()[..8];
        let name = format!("{}_{suffix}", &name[..name.len().min(40)]);
        let mut maintenance = environment.session("postgres", "postgres");
        maintenance.batch_execute(&format!("CREATE DATABASE {name} {options}")).unwrap();
        Database { bucket: Bucket::new(&environment), name, environment, roles: RefCell::default() }
    }

    /// A new connection as the superuser.
    pub fn client(&self) -> Session {
        self.client_as("postgres")
    }

    /// A new connection as `role`.
    pub fn client_as(&self, role: &str) -> Session {
        self.environment.session(&self.name, role)
    }

    /// A new login role, a member of `memberships`; gives its name.
    pub fn role(&self, name: &str, memberships: &[&str]) -> String {
        let role = format!("{}_{name}", self.name);
        let mut client = self.client();
        client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
        self.roles.borrow_mut().push(role.clone());
        for membership in memberships {
            client.batch_execute(&format!("GRANT {membership} TO {role}")).unwrap();
        }
        role
    }

    /// Makes an integration, as the superuser.
    pub fn create(&self, integration: &Integration<'_>) {
        integration.create(&mut self.client()).unwrap();
    }

    /// A key prefix that no other export has.
    pub fn prefix(&self) -> String {
        format!("{}-{}", self.name, Uuid::new_v4())
    }

    /// Exports `query` in a session of its own.
    pub fn export(&self, query: &str) -> Exported {
        self.export_with(query, "")
    }

    /// Does the same as [`Self::export`]; `arguments`: further ones, such as `output_chunk_size => 10`.
    pub fn export_with(&self, query: &str, arguments: &str) -> Exported {
        self.export_in(&mut self.client(), query, arguments).unwrap()
    }

    /// Exports in a session that is there, to a prefix of its own.
    pub fn export_in(&self, client: &mut Session, query: &str, arguments: &str) -> Result<Exported, postgres::Error> {
        self.export_to(client, &self.prefix(), query, arguments)
    }

    /// Exports by the integration called `name`, in a session that is there.
    pub fn export_by(&self, client: &mut Session, name: &str, query: &str) -> Result<Exported, postgres::Error> {
        let prefix = self.prefix();
        let call = self.call(&prefix, query, "").replace("'local'", &literal(name));
        self.exported(client, &call, &prefix)
    }

    /// The answer of `call`, a function that exports to `prefix`.
    pub fn exported(&self, client: &mut Session, call: &str, prefix: &str) -> Result<Exported, postgres::Error> {
        let row = client.query_one(&format!("SELECT *, export_id::text AS id FROM {call}"), &[]);
        client.settle();
        Ok(Exported::from_row(&row?, prefix))
    }

    /// Exports to `prefix`.
    pub fn export_to(
        &self,
        client: &mut Session,
        prefix: &str,
        query: &str,
        arguments: &str,
    ) -> Result<Exported, postgres::Error> {
        self.exported(client, &self.call(prefix, query, arguments), prefix)
    }

    /// The function call as text, to be put into other statements.
    pub fn call(&self, prefix: &str, query: &str, arguments: &str) -> String {
        let comma = if arguments.is_empty() { "" } else { ", " };
        format!("s3_export('{}', 'local', {}{comma}{arguments})", self.bucket.uri(prefix), literal(query))
    }

    /// Returns the same as [`Self::call`], of the function that enqueues a job.
    pub fn call_async(&self, prefix: &str, query: &str, arguments: &str) -> String {
        self.call(prefix, query, arguments).replacen("s3_export(", "s3_export_async(", 1)
    }

    /// The error of an export that must fail and leave nothing: no file, no manifest, no multipart upload.
    pub fn refuse(&self, query: &str, arguments: &str) -> Refusal {
        let prefix = self.prefix();
        let refusal = refused(self.export_to(&mut self.client(), &prefix, query, arguments));
        self.bucket.nothing_left(&prefix);
        refusal
    }

    /// The database as pg_dump writes it.
    pub fn dump(&self) -> String {
        self.dump_with(&[])
    }

    /// Does the same as [`Self::dump`], with further options.
    pub fn dump_with(&self, options: &[&str]) -> String {
        let output = self.environment.program("pg_dump").args(options).arg("--dbname").arg(&self.name).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a dump; gives what psql says to it, and fails the test at its first error.
    pub fn restore(&self, dump: &str) -> String {
        let mut psql = self.environment.program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.name]);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(dump.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The major version of Postgres.
    pub fn major(&self) -> u32 {
        self.client().text("SELECT current_setting('server_version_num')::int / 10000").parse().unwrap()
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.bucket.empty(&self.name);
        self.bucket.abort_multiparts(&self.name);
        let mut maintenance = self.environment.session("postgres", "postgres");
        let mut statements = vec![format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)];
        statements.extend(self.roles.borrow().iter().map(|role| format!("DROP ROLE IF EXISTS {role}")));
        for statement in statements {
            if let Err(error) = maintenance.batch_execute(&statement) {
                eprintln!("{statement}: {error:?}");
            }
        }
    }
}

/// Arguments of `s3_export.create_integration`.
#[derive(Debug, Clone)]
pub struct Integration<'a> {
    pub name: &'a str,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub endpoint: String,
    pub allowed_locations: &'a str,
    pub usage_role: &'a str,
}

impl Integration<'_> {
    /// The one that every [`Database`] has.
    pub fn local() -> Self {
        let environment = Environment::get();
        Integration {
            name: "local",
            access_key_id: environment.access_key_id,
            secret_access_key: environment.secret_access_key,
            endpoint: environment.endpoint,
            allowed_locations: "{s3://exports}",
            usage_role: "s3_export_member",
        }
    }

    pub fn create(&self, client: &mut Client) -> Result<(), postgres::Error> {
        let statement = "SELECT s3_export.create_integration($1, access_key_id => $2, secret_access_key => $3, endpoint => $4,
             path_style => true, allowed_locations => $5::text::text[], usage_role => $6::text::name)::text";
        client.query(
            statement,
            &[
                &self.name,
                &self.access_key_id,
                &self.secret_access_key,
                &self.endpoint,
                &self.allowed_locations,
                &self.usage_role,
            ],
        )?;
        Ok(())
    }
}

/// A file that the server's user owns, deleted at the end.
pub struct ServerFile(pub PathBuf);

impl ServerFile {
    pub fn new(path: PathBuf, content: &str, mode: u32) -> Self {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = ServerFile(path);
        let owner = Environment::get().os_user;
        if !owner.is_empty() {
            assert!(Command::new("chown").arg(owner).arg(&file.0).status().unwrap().success());
        }
        file
    }

    /// In the servers' directory, named after the database.
    pub fn of(db: &Database, suffix: &str, content: &str) -> Self {
        Self::new(db.environment().run_dir.join(format!("{}.{suffix}", db.name)), content, 0o600)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ServerFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `text` as an SQL string.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The messages of `notices`, in one text.
pub fn messages(notices: &[DbError]) -> String {
    notices.iter().map(|notice| format!("{notice}\n{}\n", notice.detail().unwrap_or_default())).collect()
}
