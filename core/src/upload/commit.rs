//! The objects that a commit writes, as a list: the manifest, its copy, the marker.
//!
//! The objects are written in the list's order, each when the one before is stored, and a rollback takes them back from the last to the
//! first (`Ledger::leftovers`). Another kind of object is one more row, with a role and a key of its own (`s3::object`).
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Code, Result};
use crate::files::plan::PART_BYTES;
use crate::manifest::Manifest;
use crate::s3::object::{Object, Role};
use crate::upload::object_writer::ObjectWriter;
use crate::upload::shared::Shared;

/// One kind of object that the commit writes.
struct CommitObject {
    /// Gives its key; an export whose destination has none for the role does without it.
    role: Role,
    /// Reaction of the commit where the key is another object's.
    taken: Taken,
    /// Its body in blocks, each of a part's size at most.
    body: fn(&Manifest) -> Blocks<'_>,
}

/// Reaction of the commit where the key of an object is another object's.
enum Taken {
    /// The object that is there says the same.
    Keep,
    /// The commit fails.
    Refuse,
}

type Blocks<'a> = Box<dyn Iterator<Item = Vec<u8>> + Send + 'a>;

/// All of them, in the order in which they are written.
const COMMIT_OBJECTS: [CommitObject; 3] = [
    CommitObject { role: Role::Manifest, taken: Taken::Refuse, body: whole_manifest },
    CommitObject { role: Role::ManifestCopy, taken: Taken::Refuse, body: whole_manifest },
    CommitObject { role: Role::SuccessMarker, taken: Taken::Keep, body: nothing },
];

fn whole_manifest(manifest: &Manifest) -> Blocks<'_> {
    Box::new(manifest.blocks(PART_BYTES))
}

fn nothing(_: &Manifest) -> Blocks<'_> {
    Box::new(std::iter::empty())
}

/// Writes every commit object that the export has. Errors: the first one's.
pub async fn write(shared: Arc<Shared>, manifest: Arc<Manifest>) -> Result<()> {
    for CommitObject { role, taken, body } in &COMMIT_OBJECTS {
        let Some(object) = Object::of(&shared.destination, *role) else { continue };
        match (write_object(&shared, object, body(&manifest)).await, taken) {
            (Err(error), Taken::Keep) if error.code() == Code::Duplicate => {}
            (outcome, _) => outcome?,
        }
    }
    Ok(())
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
