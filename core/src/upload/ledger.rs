//! Objects of an export that exist, are unknown, or are stored: the manifest lists it, and a rollback takes it back.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::io::task::lost_task;
use crate::manifest::FileRecord;
use crate::s3::object::Role;
use crate::sync::lock;
use crate::upload::commit_objects::COMMIT_OBJECTS;
use crate::upload::leftovers::{LeftoverCommitObject, LeftoverFile, OpenMultipart, RollbackPlan};

/// Knowledge about the objects of one export.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By file number less one.
    files: Vec<ObjectState>,
    /// Numbers of files that are stored, and of which an attempt was not answered.
    outcome_unknown: HashSet<u64>,
    /// Keys of multipart uploads that were asked for and have no id yet.
    creating: Vec<String>,
    /// Begun and neither completed nor aborted.
    multiparts: Vec<OpenMultipart>,
    /// Objects of the commit that may be there.
    commit_objects: Vec<LeftoverCommitObject>,
}

/// State of a file, as far as it is known.
#[derive(Debug, Clone, Default)]
enum ObjectState {
    /// Never sent, or refused.
    #[default]
    Absent,
    /// Sent, with no answer that says what came of it.
    Unknown,
    /// Acknowledged.
    Stored(FileRecord),
}

impl Ledger {
    /// Makes room for file `number`. Errors: 53200.
    pub fn file_began(&self, number: u64) -> Result<()> {
        let mut state = lock(&self.state);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let missing = index.saturating_sub(state.files.len());
        state.files.try_reserve(missing).map_err(|_| Error::out_of_memory("the list of files"))?;
        state.files.resize(index, ObjectState::Absent);
        Ok(())
    }

    /// The object is stored.
    /// `answer_lost`: of an earlier attempt, which may have made it too, or do so yet.
    pub fn object_stored(&self, role: Role, record: FileRecord, answer_lost: bool) {
        let mut state = lock(&self.state);
        match role {
            Role::File(number) => {
                state.set_file(number, ObjectState::Stored(record));
                if answer_lost {
                    state.outcome_unknown.insert(number);
                }
            }
            // Whoever tries a store out deletes it himself.
            Role::Probe => {}
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker => {
                let version_id = record.version_id.map(String::from);
                state.set_commit_object(role, Some(LeftoverCommitObject { role, version_id, is_unknown: answer_lost }));
            }
        }
    }

    /// The request that makes the object is about to be sent.
    pub fn object_may_exist(&self, role: Role) {
        lock(&self.state).set_object(role, true);
    }

    /// The request that makes the object was refused.
    pub fn object_is_absent(&self, role: Role) {
        lock(&self.state).set_object(role, false);
    }

    /// A multipart upload is about to be asked for.
    pub fn multipart_asked(&self, key: &str) {
        lock(&self.state).creating.push(key.to_owned());
    }

    /// A multipart upload has an id; `None`: it was refused. `others_may_exist`: of attempts that were not answered.
    pub fn multipart_answered(&self, key: &str, upload_id: Option<&str>, others_may_exist: bool) {
        let mut state = lock(&self.state);
        if !others_may_exist {
            state.creating.retain(|asked| asked != key);
        }
        if let Some(upload_id) = upload_id {
            state.multiparts.push(OpenMultipart { key: key.to_owned(), upload_id: upload_id.to_owned() });
        }
    }

    /// A multipart upload became an object.
    pub fn multipart_ended(&self, upload_id: &str) {
        lock(&self.state).multiparts.retain(|upload| upload.upload_id != upload_id);
    }

    /// The records of all files, for the manifest. Errors: XX000 when one is not stored.
    pub fn records(&self) -> Result<Vec<FileRecord>> {
        let record = |file: &ObjectState| match file {
            ObjectState::Stored(record) => Some(record.clone()),
            ObjectState::Absent | ObjectState::Unknown => None,
        };
        lock(&self.state).files.iter().map(record).collect::<Option<Vec<_>>>().ok_or_else(lost_task)
    }

    /// Objects and uploads that a rollback has to take back.
    pub fn leftovers(&self) -> RollbackPlan {
        let state = lock(&self.state);
        let present = |(file, number): (&ObjectState, u64)| match file {
            ObjectState::Absent => None,
            ObjectState::Unknown => Some(LeftoverFile { number, version_id: None, is_unknown: true }),
            ObjectState::Stored(record) => {
                let version_id = record.version_id.as_deref().map(str::to_owned);
                Some(LeftoverFile { number, version_id, is_unknown: state.outcome_unknown.contains(&number) })
            }
        };
        let may_be_there = |role| state.commit_objects.iter().find(|known| known.role == role).cloned();
        RollbackPlan {
            commit_objects: COMMIT_OBJECTS.iter().rev().filter_map(|listed| may_be_there(listed.role)).collect(),
            files: state.files.iter().zip(1..).filter_map(present).collect(),
            creating: state.creating.clone(),
            multiparts: state.multiparts.clone(),
        }
    }
}

impl State {
    fn set_object(&mut self, role: Role, may_exist: bool) {
        match role {
            Role::File(number) => self.set_file(number, if may_exist { ObjectState::Unknown } else { ObjectState::Absent }),
            // Whoever tries a store out deletes it himself.
            Role::Probe => {}
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker => {
                let unknown = LeftoverCommitObject { role, version_id: None, is_unknown: true };
                self.set_commit_object(role, may_exist.then_some(unknown));
            }
        }
    }

    fn set_commit_object(&mut self, role: Role, commit_object: Option<LeftoverCommitObject>) {
        self.commit_objects.retain(|known| known.role != role);
        self.commit_objects.extend(commit_object);
    }

    fn set_file(&mut self, number: u64, presence: ObjectState) {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        if let Some(file) = self.files.get_mut(index) {
            *file = presence;
        }
    }
}
