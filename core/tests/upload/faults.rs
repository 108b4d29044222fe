//! Every fault at every step, once and for ever.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use s3_export_core::error::Code;
use s3_export_core::s3::RetryPolicies;
use s3_export_core::s3::retry::RetryPolicy;

use super::export::{Export, Terms, connection};
use super::store::{Action, MemoryStore, Step};

/// Fault of a store or of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    SlowDown,
    InternalError,
    Aborted,
    /// No attempt changes this answer.
    Denied,
    /// The answer ends within its status line.
    CutEarly,
    /// The answer ends within its headers.
    CutLate,
    Break,
    LoseAnswer,
    Hang,
    /// S3 may answer so where the answer takes long.
    ErrorWithin200,
    Delay,
}

const FAULTS: [Fault; 11] = [
    Fault::SlowDown,
    Fault::InternalError,
    Fault::Aborted,
    Fault::Denied,
    Fault::CutEarly,
    Fault::CutLate,
    Fault::Break,
    Fault::LoseAnswer,
    Fault::Hang,
    Fault::ErrorWithin200,
    Fault::Delay,
];

impl Fault {
    pub fn action(self) -> Action {
        match self {
            Fault::SlowDown => Action::Refuse("503 Slow Down", "SlowDown"),
            Fault::InternalError => Action::Refuse("500 Internal Server Error", "InternalError"),
            Fault::Aborted => Action::Refuse("409 Conflict", "OperationAborted"),
            Fault::Denied => Action::Refuse("403 Forbidden", "AccessDenied"),
            Fault::CutEarly => Action::Cut(7),
            Fault::CutLate => Action::Cut(22),
            Fault::Break => Action::Break,
            Fault::LoseAnswer => Action::LoseAnswer,
            Fault::Hang => Action::Hang,
            Fault::ErrorWithin200 => Action::Refuse("200 OK", "InternalError"),
            Fault::Delay => Action::DoLate(Duration::from_millis(20)),
        }
    }

    /// Whether S3 may do this at the step.
    fn may_happen_at(self, step: Step) -> bool {
        self != Fault::ErrorWithin200 || matches!(step, Step::Create | Step::Complete)
    }

    /// Whether the step ends well where the fault happens that number of times.
    pub fn is_survived(self, times: u32) -> bool {
        self == Fault::Delay || (times == 1 && self != Fault::Denied)
    }

    /// The attempts at requests to which the fault happens: a fault that lasts uses up all the time that there is, and one that hangs
    /// the time of an attempt. What goes well has time for a slow machine.
    pub fn policy(self, times: u32) -> RetryPolicy {
        match self {
            // Final at the first answer, however late.
            Fault::Denied => GENEROUS,
            _ if !self.is_survived(times) => RetryPolicy { attempts: 3, total: Duration::from_secs(3) },
            Fault::Hang => RetryPolicy { attempts: 9, total: Duration::from_secs(15) },
            _ => GENEROUS,
        }
    }
}

/// Attempts at what goes well, on a slow machine too.
pub const GENEROUS: RetryPolicy = RetryPolicy { attempts: 3, total: Duration::from_secs(60) };

/// Limit of a rollback that does not succeed: time for a slow machine to send its first request.
pub const TO_MEET_THE_STEP: Duration = Duration::from_secs(2);

/// A store in which the fault happens to the first `times` requests of the step.
fn faulty(step: Step, fault: Fault, times: u32) -> MemoryStore {
    let met = AtomicU32::new(0);
    MemoryStore::start(
        move |asked| {
            if asked == step && met.fetch_add(1, Ordering::Relaxed) < times { fault.action() } else { Action::Do }
        },
    )
}

fn begin(store: &MemoryStore, policy: RetryPolicies) -> Export {
    Export::begin(connection(store.endpoint()), Terms::new(policy))
}

/// Runs `case` with each fault, once and for ever, all at the same time.
pub fn cross(step: Step, case: impl Fn(Step, Fault, u32) + Copy + Send) {
    thread::scope(|scope| {
        for fault in FAULTS.into_iter().filter(|fault| fault.may_happen_at(step)) {
            for times in [1, u32::MAX] {
                scope.spawn(move || case(step, fault, times));
            }
        }
    });
}

/// An export to a store with a fault: all of it is there afterwards, or nothing of it.
fn is_complete_or_absent(step: Step, fault: Fault, times: u32) {
    let what = format!("{step:?}, {fault:?}, {times} times");
    let store = faulty(step, fault, times);
    let faulty = fault.policy(times);
    let export = begin(&store, RetryPolicies { files: faulty, manifest: faulty, clean_up: GENEROUS });
    let pieces = if matches!(step, Step::Put | Step::Manifest) { 1 } else { 3 };
    let outcome = export.write_files(pieces).and_then(|()| export.commit());
    if fault.is_survived(times) {
        assert!(store.content().requests.contains(&step), "{what}: the step was not met");
        outcome.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let content = store.content();
        let expected = export.expected(pieces);
        let keys: Vec<&String> = expected.iter().map(|(key, _)| key).collect();
        assert_eq!(content.objects.keys().collect::<Vec<_>>(), keys, "{what}");
        for (key, body) in &expected {
            assert!(body.as_ref().is_none_or(|body| *body == content.objects[key]), "{what}: {key} holds something else");
        }
        assert!(content.uploads.is_empty(), "{what}: {:?}", content.uploads);
    } else {
        let error = outcome.expect_err(&what);
        assert!([Code::Connection, Code::Privilege, Code::Io, Code::Timeout].contains(&error.code()), "{what}: {error:?}");
        // Who asks again is told the same.
        if step != Step::Manifest {
            assert_eq!(export.outcome(), Err(error), "{what}");
        }
        let report = export.roll_back(GENEROUS.total);
        let content = store.content();
        let is_empty = content.objects.is_empty() && content.uploads.is_empty();
        // A slow machine's store may do late what nobody waited for any more.
        assert!(is_empty || !report.is_empty(), "{what}: {:?} {:?}", content.objects, content.uploads);
        assert!(report.count <= 5, "{what}: {report:?}");
    }
}

/// A rollback at a store with a fault: nothing is left, or what is left is named.
fn is_taken_back_or_named(step: Step, fault: Fault, times: u32) {
    let what = format!("{step:?}, {fault:?}, {times} times");
    let store = faulty(step, fault, times);
    let export = begin(&store, RetryPolicies { clean_up: fault.policy(times), ..RetryPolicies::all(GENEROUS) });
    export.write_files(3).unwrap();
    export.commit().unwrap();
    let limit = if fault.is_survived(times) { GENEROUS.total } else { TO_MEET_THE_STEP };
    let report = export.roll_back(limit);
    assert!(store.content().requests.contains(&step), "{what}: the step was not met");
    let left = store.content().objects.len();
    if fault.is_survived(times) {
        assert!(left == 0 && report.is_empty(), "{what}: {left} {report:?}");
    } else {
        assert!(report.count >= left, "{what}: {left} are left and {report:?} told");
        assert!(left == 0 || !report.named.is_empty(), "{what}: {report:?}");
    }
}

#[test]
fn faults_of_a_put() {
    cross(Step::Put, is_complete_or_absent);
}

#[test]
fn faults_of_the_manifest() {
    cross(Step::Manifest, is_complete_or_absent);
}

#[test]
fn faults_of_the_beginning_of_a_multipart_upload() {
    cross(Step::Create, is_complete_or_absent);
}

#[test]
fn faults_of_a_part() {
    cross(Step::Part, is_complete_or_absent);
}

#[test]
fn faults_of_the_completion_of_a_multipart_upload() {
    cross(Step::Complete, is_complete_or_absent);
}

#[test]
fn faults_of_a_rollbacks_deletions() {
    cross(Step::Delete, is_taken_back_or_named);
}

/// Multipart uploads are aborted where a completion was refused.
#[test]
fn faults_of_a_rollbacks_aborts() {
    cross(Step::Abort, |step, fault, times| {
        let what = format!("{step:?}, {fault:?}, {times} times");
        let met = AtomicU32::new(0);
        let store = MemoryStore::start(move |asked| match asked {
            Step::Complete => Action::Refuse("403 Forbidden", "AccessDenied"),
            _ if asked == step && met.fetch_add(1, Ordering::Relaxed) < times => fault.action(),
            _ => Action::Do,
        });
        let export = begin(&store, RetryPolicies { clean_up: fault.policy(times), ..RetryPolicies::all(GENEROUS) });
        assert_eq!(export.write_files(3).unwrap_err().code(), Code::Privilege, "{what}");
        let limit = if fault.is_survived(times) { GENEROUS.total } else { TO_MEET_THE_STEP };
        let report = export.roll_back(limit);
        assert!(store.content().requests.contains(&step), "{what}: the step was not met");
        let left = store.content().uploads.len();
        if fault.is_survived(times) {
            assert!(left == 0, "{what}: {left} {report:?}");
        } else {
            assert!(left == 0 || !report.is_empty(), "{what}: {left} uploads are left, and nobody is told");
        }
    });
}

/// The store may carry out a request after the first deletion, and after the second one too.
#[test]
fn an_object_whose_request_was_cut_off_is_deleted_twice_and_named() {
    let store = MemoryStore::start(|asked| if asked == Step::Put { Action::Hang } else { Action::Do });
    let export = begin(&store, RetryPolicies::all(GENEROUS));
    export.file_in_pieces(1, 1).unwrap();
    while !store.content().requests.contains(&Step::Put) {
        thread::sleep(Duration::from_millis(1));
    }
    let report = export.roll_back(GENEROUS.total);
    let deletions = store.content().requests.iter().filter(|&&step| step == Step::Delete).count();
    assert_eq!((deletions, report.count, report.named.len()), (2, 1, 1), "{report:?}");
    assert!(report.cause.is_some_and(|cause| cause.summary().contains("cut off")));
}
