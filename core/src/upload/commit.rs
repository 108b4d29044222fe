//! A commit's objects are written here, one after another. Before the query runs, the names of these objects are looked up: a name
//! that is taken would fail the commit after hours of work.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Code, Result};
use crate::manifest::Manifest;
use crate::naming::keys::Destination;
use crate::s3::Bucket;
use crate::s3::object::{Object, Role};
use crate::upload::commit_objects::{Blocks, COMMIT_OBJECTS, CommitObject, Taken};
use crate::upload::object_writer::ObjectWriter;
use crate::upload::shared::Shared;

/// Writes every commit object that the export has. Errors: the first one's.
pub async fn write(shared: Arc<Shared>, manifest: Arc<Manifest>) -> Result<()> {
    for CommitObject { role, taken, body } in &COMMIT_OBJECTS {
        let Some(object) = Object::of(&shared.destination, *role) else { continue };
        unless_kept(write_object(&shared, object, body(&manifest)).await, *taken)?;
    }
    Ok(())
}

/// Errors: 42710 when an object of the export's would have the name of an object that is there; 0A000 when an object may not be looked at
/// that the store may overwrite.
pub async fn refuse_taken_names(bucket: &Bucket, destination: &Destination) -> Result<()> {
    // Whoever has a key of the run has looked at the manifest already.
    let of_commit = COMMIT_OBJECTS.iter().map(|listed| (listed.role, listed.taken)).filter(|(role, _)| *role != Role::Manifest);
    for (role, taken) in [(Role::File(1), Taken::Refuse)].into_iter().chain(of_commit) {
        let Some(object) = Object::of(destination, role).filter(|object| object.claim.is_some()) else { continue };
        unless_kept(bucket.refuse_taken(&object, bucket.blind()).await.map_err(|failure| failure.error), taken)?;
    }
    Ok(())
}

/// Writes the objects beside the manifest of an export that has committed where they are missing: the server may have died before it wrote
/// them, or an earlier run may not have been asked for them. `destination`: that export's; `manifest`: the bytes of its manifest. Errors:
/// 42710 when another object has the name of the copy.
pub async fn complete(bucket: &Bucket, destination: &Destination, manifest: Bytes) -> Result<()> {
    for listed in COMMIT_OBJECTS.iter().filter(|listed| listed.role != Role::Manifest) {
        let Some(object) = Object::of(destination, listed.role) else { continue };
        let head = bucket.head(&object.key).await.map_err(|failure| failure.error)?;
        if head.is_some_and(|head| head.is_of(&object) || listed.taken == Taken::Keep) {
            continue;
        }
        let body = if listed.role == Role::ManifestCopy { manifest.clone() } else { Bytes::new() };
        let checksum = bucket.checksum().of(&body);
        unless_kept(bucket.put(&object, body, &checksum).await.map(drop).map_err(|failure| failure.error), listed.taken)?;
    }
    Ok(())
}

/// The outcome, but for a name that is taken where the object that has it may stay.
fn unless_kept(outcome: Result<()>, taken: Taken) -> Result<()> {
    match outcome {
        Err(error) if taken == Taken::Keep && error.code() == Code::Duplicate => Ok(()),
        outcome => outcome,
    }
}

async fn write_object(shared: &Arc<Shared>, object: Object, blocks: Blocks<'_>) -> Result<()> {
    let mut writer = ObjectWriter::new(Arc::clone(shared), object);
    let mut blocks = blocks.map(Bytes::from);
    let mut block = blocks.next().unwrap_or_default();
    for next in blocks {
        writer.piece(std::mem::replace(&mut block, next), None).await?;
    }
    writer.finish(block, 0, None).await
}
