//! What requests are about: objects and their parts.
#![forbid(unsafe_code)]

use aws_sdk_s3::types::{CompletedPart, StorageClass};

use super::connection::ObjectSettings;

/// Most keys that one DeleteObjects request takes.
pub const DELETE_BATCH: usize = 1000;

/// Whether an object holds documents or lists the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One JSON document a line; the file's number.
    File(u64),
    /// Always of storage class STANDARD: it is small and read first.
    Manifest,
    /// Written to see whether it can be, and deleted.
    Probe,
}

impl Role {
    /// Of its `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Role::File(_) => "application/x-ndjson",
            Role::Manifest => "application/json",
            Role::Probe => "text/plain",
        }
    }

    /// For messages: "could not …".
    pub fn step(self) -> &'static str {
        match self {
            Role::File(_) => "upload a file",
            Role::Manifest => "write the manifest",
            Role::Probe => "write the probe",
        }
    }

    /// `None`: the bucket's default.
    pub fn storage_class(self, settings: &ObjectSettings) -> Option<StorageClass> {
        match self {
            Role::File(_) => settings.storage_class.as_deref().map(StorageClass::from),
            // A probe does not live long enough for a class that is paid by the month.
            Role::Manifest | Role::Probe => None,
        }
    }
}

/// An object that S3 has not acknowledged yet.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What it holds.
    pub role: Role,
}

/// An object to delete.
#[derive(Debug)]
pub struct Deletion {
    /// Its key.
    pub key: String,
    /// In a versioned bucket, the version; without it only a marker would be set.
    pub version_id: Option<String>,
}

/// A part that S3 acknowledged.
pub type Part = CompletedPart;
