//! The objects that a commit writes, as one list: the manifest, its copy, the marker.
//!
//! The commit writes them in the list's order, each when the one before is stored. A rollback takes them back from the last to the first
//! (`ledger`), and names of the user's making are looked at before the query runs (`commit`). Another kind of object is one more row, with
//! a role and a key of its own (`s3::object`).
#![forbid(unsafe_code)]

use crate::files::plan::PART_BYTES;
use crate::manifest::Manifest;
use crate::s3::object::Role;

/// One kind of object that the commit writes.
pub struct CommitObject {
    /// Gives its key; an export whose destination has none for the role does without it.
    pub role: Role,
    /// Reaction where the key is another object's.
    pub taken: Taken,
    /// Its body in blocks, each of a part's size at most.
    pub body: fn(&Manifest) -> Blocks<'_>,
}

/// Reaction where the key of an object is another object's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The export goes on: the object that is there says the same.
    Keep,
    /// The export fails.
    Refuse,
}

/// A body, block by block.
pub type Blocks<'a> = Box<dyn Iterator<Item = Vec<u8>> + Send + 'a>;

/// All of them, in the order in which they are written.
pub const COMMIT_OBJECTS: [CommitObject; 3] = [
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
