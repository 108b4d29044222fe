//! The backend's side of an export, without a backend.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::error::Result;
use s3_export_core::files::chunker::{Body, Piece, Totals};
use s3_export_core::files::limits::ExportLimits;
use s3_export_core::files::plan::{FileEncoding, FilePlan, PART_BYTES};
use s3_export_core::format::{FileType, Format, Wrapping};
use s3_export_core::io::task::Task;
use s3_export_core::io::thread::IoThread;
use s3_export_core::manifest::{FileRecord, Manifest};
use s3_export_core::naming::keys::{Destination, Naming};
use s3_export_core::naming::uri::Location;
use s3_export_core::s3::bandwidth::Bandwidth;
use s3_export_core::s3::checksum::Algorithm;
use s3_export_core::s3::client::{AmazonEndpoints, BucketRegion, Connection, ObjectSettings, Store};
use s3_export_core::s3::credentials::{Base, Identity};
use s3_export_core::s3::network::{Network, Reach, Trust};
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};
use s3_export_core::secret::Secret;
use s3_export_core::upload::{ExportUpload, RollbackReport, Sending};
use uuid::Uuid;

/// Documents of one piece.
const DOCUMENTS: &[u8] = b"{}\n";

/// Attempts that outlive what a slow machine makes of a test.
pub const POLICY: RetryPolicy = RetryPolicy { attempts: 5, total: Duration::from_secs(60) };

/// Terms of an export that a test may choose.
pub struct Terms {
    pub trust: Trust,
    pub destination: Destination,
    /// Uploads at once.
    pub concurrency: usize,
    /// Bytes that may be on their way.
    pub budget: usize,
    pub policy: RetryPolicies,
    pub limits: ExportLimits,
    /// Bytes a second; 0: any number.
    pub bandwidth: u64,
}

impl Terms {
    pub fn new(policy: RetryPolicies) -> Self {
        Terms {
            trust: Trust::System,
            destination: destination_of(None),
            concurrency: 4,
            budget: 1 << 30,
            policy,
            limits: ExportLimits::default(),
            bandwidth: 0,
        }
    }
}

/// Terms with that number of uploads at once.
pub fn terms(concurrency: usize, policy: RetryPolicy) -> Terms {
    Terms { concurrency, ..Terms::new(RetryPolicies::all(policy)) }
}

pub struct Export {
    io: IoThread,
    pub upload: ExportUpload,
    pub destination: Destination,
    budget: usize,
}

impl Export {
    /// Begins an export to the store at the other end of `connection`.
    pub fn begin(connection: Connection, terms: Terms) -> Self {
        let Terms { trust, destination, concurrency, budget, policy, limits, bandwidth } = terms;
        let (io, store) = open(connection, trust);
        let plan = FilePlan { encoding: FileEncoding::Not, part: PART_BYTES, most_bytes: u64::MAX, limits };
        let sending = Sending { concurrency, throttle: Throttle::new(concurrency), bandwidth: Bandwidth::new(bandwidth) };
        let upload = ExportUpload::start(&io, store, destination.clone(), plan, sending, policy);
        Export { io, upload, destination, budget }
    }

    /// Waits until all files are stored. Errors: the first upload's.
    pub fn stored(&self) -> Result<()> {
        self.upload.close();
        self.wait_until(|| self.upload.is_stored())
    }

    fn wait_until(&self, ready: impl Fn() -> Result<bool>) -> Result<()> {
        loop {
            self.upload.wake().clear();
            if ready()? {
                return Ok(());
            }
            self.upload.wake().wait(Duration::from_secs(60));
        }
    }

    /// Hands over one file of one piece, when there is room for it.
    pub fn file(&self, number: u64, body: Bytes) -> Result<()> {
        let room = body.len();
        self.wait_until(|| self.upload.has_room(room, self.budget))?;
        self.upload.send(Piece { file: number, body: Body::Bytes(body), room, documents: Some(1) })
    }

    /// Writes that number of files of one piece.
    pub fn files(&self, count: u64, body: &Bytes) -> Result<()> {
        for number in 1..=count {
            self.file(number, body.clone())?;
        }
        self.stored()
    }

    /// Hands over one file in that number of pieces; a file of several pieces is a multipart upload.
    pub fn file_in_pieces(&self, file: u64, pieces: u64) -> Result<()> {
        for piece in 1..=pieces {
            let body = Body::Bytes(Bytes::from_static(DOCUMENTS));
            let documents = (piece == pieces).then_some(pieces);
            self.upload.send(Piece { file, body, room: DOCUMENTS.len(), documents })?;
        }
        Ok(())
    }

    /// Hands over one file in pieces of these lengths.
    pub fn pieces(&self, file: u64, lengths: &[usize]) -> Result<()> {
        for (index, length) in lengths.iter().enumerate() {
            let documents = (index + 1 == lengths.len()).then_some(1);
            self.upload.send(Piece { file, body: Body::Bytes(Bytes::from(vec![b'x'; *length])), room: *length, documents })?;
        }
        Ok(())
    }

    /// Writes one file as a multipart upload of six bytes in two parts.
    pub fn two_parts(&self) -> Result<()> {
        self.file_in_pieces(1, 2)?;
        self.stored()
    }

    /// Writes two files, each of that number of pieces.
    pub fn write_files(&self, pieces: u64) -> Result<()> {
        for file in 1..=2 {
            self.file_in_pieces(file, pieces)?;
        }
        self.stored()
    }

    /// Whether all files are stored. Errors: the first upload's.
    pub fn outcome(&self) -> Result<bool> {
        self.upload.is_stored()
    }

    /// Writes the manifest, as the commit does.
    pub fn commit(&self) -> Result<()> {
        self.commit_with(None)
    }

    /// Writes the manifest with the text of the query, which may make it large.
    pub fn commit_with(&self, query: Option<String>) -> Result<()> {
        let files = self.upload.records()?;
        let sum = |count: fn(&FileRecord) -> u64| files.iter().map(count).sum();
        let totals = Totals { documents: sum(|file| file.documents), files: files.len() as u64, bytes: sum(|file| file.bytes) };
        let manifest = Manifest {
            destination: self.destination.clone(),
            files,
            totals,
            columns: Vec::new(),
            algorithm: Algorithm::Crc32,
            wrap_types: true,
            query_sha256: String::new(),
            query,
            feed: None,
        };
        self.upload.write_manifest(&self.io, Arc::new(manifest));
        self.wait_until(|| self.upload.is_manifest_written())
    }

    /// Takes everything back, as an abort does.
    pub fn roll_back(&self, limit: Duration) -> RollbackReport {
        wait(&self.io, &self.upload.clean_up(&self.io, limit))
    }

    /// Deletes the files of the export in whose place this one has come, as the end of the commit does.
    pub fn delete_replaced(&self, limit: Duration) -> RollbackReport {
        wait(&self.io, &self.upload.delete_replaced(&self.io, limit))
    }

    /// The keys of a committed export, and what its files hold.
    pub fn expected(&self, pieces: u64) -> Vec<(String, Option<Vec<u8>>)> {
        let body = DOCUMENTS.repeat(usize::try_from(pieces).unwrap());
        let mut objects: Vec<_> = (1..=2).map(|file| (self.destination.file_key(file), Some(body.clone()))).collect();
        objects.push((self.destination.manifest_key(), None));
        objects.sort();
        objects
    }
}

/// Opens the store at the other end of `connection`, with a thread for its requests.
fn open(connection: Connection, trust: Trust) -> (IoThread, Store) {
    let io = IoThread::start().unwrap();
    let network = Arc::new(Network::new(trust));
    let store = wait(&io, &io.spawn(async move { Store::open(&connection, "bucket", &network).await }));
    (io, store.unwrap())
}

/// The bucket at the other end of `connection`, with a thread for its requests.
pub fn bucket(connection: Connection, policy: RetryPolicy) -> (IoThread, Bucket) {
    let (io, store) = open(connection, Trust::System);
    (io, Bucket::new(store, "bucket", RetryPolicies::all(policy), Throttle::new(1)))
}

/// Waits for the result of a task.
pub fn wait<T>(io: &IoThread, task: &Task<T>) -> T {
    loop {
        io.wake().clear();
        match task.take().unwrap() {
            Some(value) => return value,
            None => io.wake().wait(Duration::from_secs(60)),
        }
    }
}

/// A destination; `name` is that of its only file, where the user has made it up.
pub fn destination_of(name: Option<&str>) -> Destination {
    let file_type = FileType::of(&Format::Json(Wrapping::Rockset), None);
    let file = name.map(str::to_owned);
    let naming = Naming { in_folder: false, file_type, file, run_key: None, manifest_copy: None, success_marker: None };
    Destination::new(Location::parse("s3://bucket/x").unwrap(), Uuid::now_v7(), naming).unwrap()
}

/// The destination of an export of the run with that key.
pub fn destination_of_run(run_key: &str) -> Destination {
    let file_type = FileType::of(&Format::Json(Wrapping::Rockset), None);
    let run_key = Some(run_key.to_owned());
    let naming = Naming { in_folder: false, file_type, file: None, run_key, manifest_copy: None, success_marker: None };
    Destination::new(Location::parse("s3://bucket/x").unwrap(), Uuid::now_v7(), naming).unwrap()
}

/// The settings of a store at `endpoint`.
pub fn connection(endpoint: String) -> Connection {
    let base = Base::Keys {
        access_key_id: "AKID".to_owned(),
        secret_access_key: Secret::new("secret".to_owned()),
        session_token: None,
    };
    Connection {
        region: BucketRegion::Known("us-east-1".to_owned()),
        endpoint: Some(endpoint),
        amazon: AmazonEndpoints::default(),
        path_style: true,
        reach: Reach::Private,
        identity: Arc::new(Identity { base, role: None, amazon: AmazonEndpoints::default() }),
        object: ObjectSettings::default(),
    }
}
