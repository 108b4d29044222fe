//! Findings of a verification, and the channel by which they leave the I/O thread.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::files::chunker::Totals;
use crate::io::wake::Wake;

/// Extent of the comparison of an object with the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Nothing: there is no object, or it may not be looked at.
    Nothing,
    /// Size alone: manifest or store has no checksum of the whole object.
    Size,
    /// Size, and the checksum that the store keeps.
    Checksum,
    /// Size, and the checksum of the bytes, which were read.
    Content,
}

impl Checked {
    /// Text of the column `checked`.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Checked::Nothing => None,
            Checked::Size => Some("size"),
            Checked::Checksum => Some("checksum"),
            Checked::Content => Some("content"),
        }
    }
}

/// A way in which an object differs from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such object.
    Missing,
    /// The object has another size.
    OtherSize,
    /// The object has another checksum.
    OtherChecksum,
    /// Somebody wrote or deleted the object while it was read.
    Changed,
    /// The object bears this export's id, and the manifest does not list it.
    NotListed,
    /// The manifest lists the object twice.
    ListedTwice,
    /// The manifest lists a key that is not this export's; nobody looked at the object.
    NotOfExport,
    /// The manifest contradicts itself.
    Contradiction,
}

impl Problem {
    /// Text of the column `problem`.
    pub fn name(self) -> &'static str {
        match self {
            Problem::Missing => "missing",
            Problem::OtherSize => "other size",
            Problem::OtherChecksum => "other checksum",
            Problem::Changed => "changed while it was read",
            Problem::NotListed => "not listed",
            Problem::ListedTwice => "listed twice",
            Problem::NotOfExport => "not of this export",
            Problem::Contradiction => "contradiction",
        }
    }
}

/// Outcome for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// URL of the object.
    pub url: String,
    /// The problem, and a sentence about it; `None`: the object is as the manifest says.
    pub problem: Option<(Problem, String)>,
    /// Size of the object, where it was looked at.
    pub bytes: Option<u64>,
    /// Documents that the manifest says are in it.
    pub documents: u64,
    /// Extent of the comparison.
    pub checked: Checked,
    /// Whether [`Event::Read`] has told of its bytes.
    pub was_read: bool,
}

/// News of a verification.
#[derive(Debug)]
pub enum Event {
    /// The manifest was read: these files are to be looked at.
    Expects(Totals),
    /// Number of bytes of objects that were read.
    Read(u64),
    /// Outcome for one object; the manifest comes first.
    Found(Finding),
}

/// Events on their way, at most.
const EVENTS: usize = 256;

/// Returns both ends of the way by which news leave the I/O thread.
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    mpsc::channel(EVENTS)
}

/// Channel by which news leave the I/O thread. The channel is bounded, so that a slow reader slows the work down.
#[derive(Clone)]
pub struct Reporter {
    /// Sends the news.
    pub sender: Sender<Event>,
    /// Raised after each.
    pub wake: Arc<Wake>,
}

impl Reporter {
    pub(super) async fn tell(&self, event: Event) {
        // Whoever does not listen any more has given up, and ends the work.
        let _ = self.sender.send(event).await;
        self.wake.raise();
    }
}
