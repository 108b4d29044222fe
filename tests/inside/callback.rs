//! Errors where Postgres can take none, and what a transaction leaves to the next.

use std::ffi::CStr;

use pgrx::prelude::*;
use s3_export_core::error::{Code, Error};
use s3_export_core::io::thread::IoThread;

use crate::inside_tests;
use crate::pg::callback::contained;
use crate::pg::errors::{attempt, run};
use crate::pg::report::{Report, in_callback};
use crate::pg::worker_transaction::set_local;
use crate::pg::{caller, limit};

inside_tests! {
    an_error_that_a_callback_catches_leaves_interrupts_held_off,
    a_time_limit_that_was_exceeded_beside_another_error_is_forgotten,
    the_first_error_is_told_where_the_time_limit_was_exceeded_beside_it,
    settings_that_would_harm_a_worker_are_put_back_after_the_job,
}

fn counters() -> (u32, u32) {
    // SAFETY: reads counters of the backend's own.
    unsafe { (pg_sys::InterruptHoldoffCount, pg_sys::QueryCancelHoldoffCount) }
}

fn set_counters((interrupts, cancels): (u32, u32)) {
    // SAFETY: as an abort counts them up; each test puts back what was before.
    unsafe {
        pg_sys::InterruptHoldoffCount = interrupts;
        pg_sys::QueryCancelHoldoffCount = cancels;
    }
}

fn message(error: *mut pg_sys::ErrorData) -> String {
    // SAFETY: an error that was just made, which nobody has thrown or freed.
    unsafe { CStr::from_ptr((*error).message) }.to_string_lossy().into_owned()
}

/// Postgres counted down from zero afterwards, and the session answered nothing any more.
fn an_error_that_a_callback_catches_leaves_interrupts_held_off() {
    let fail = || set_local(c"work_mem", c"nonsense");
    let before = counters();
    let held = (before.0 + 2, before.1 + 1);
    set_counters(held);
    let bare = std::panic::catch_unwind(fail);
    let after_bare = counters();
    set_counters(held);
    let caught = contained(fail);
    let after = counters();
    in_callback(&[Report::Log("a line".to_owned())]);
    let reported = counters();
    set_counters(before);
    assert!(bare.is_err() && caught.is_err());
    assert_eq!(after_bare, (0, 0), "what this is about");
    assert_eq!((after, reported), (held, held));
}

/// A later export of the transaction was told of it.
fn a_time_limit_that_was_exceeded_beside_another_error_is_forgotten() {
    let io = IoThread::start().unwrap();
    let exceed = || {
        let limit = limit::TimeLimit::start(&io, std::time::Duration::from_millis(1));
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(limit);
    };
    exceed();
    limit::TimeLimit::start(&io, std::time::Duration::from_secs(60)).end().unwrap();
    exceed();
    let failed: Result<(), _> = run(|| Err(Error::new(Code::Io, "a store")));
    let told = message(failed.unwrap_err());
    assert!(told.contains("a store") && limit::take_exceeded().is_none(), "{told}");
    assert!(attempt(|| Ok(())).is_ok());
}

/// An error of Postgres's that is no cancel has a cause of its own.
fn the_first_error_is_told_where_the_time_limit_was_exceeded_beside_it() {
    let io = IoThread::start().unwrap();
    let before = counters();
    let failed: Result<(), _> = run(|| {
        let limit = limit::TimeLimit::start(&io, std::time::Duration::from_millis(1));
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(limit);
        set_local(c"work_mem", c"nonsense");
        Ok(())
    });
    set_counters(before);
    let told = message(failed.unwrap_err());
    assert!(told.contains("work_mem") && limit::take_exceeded().is_none(), "{told}");
}

/// Settings of a job's code stayed for what the worker does afterwards.
fn settings_that_would_harm_a_worker_are_put_back_after_the_job() {
    let value = || Spi::get_one::<String>("SHOW exit_on_error").unwrap().unwrap();
    Spi::run("SELECT set_config('exit_on_error', 'on', false)").unwrap();
    let before = value();
    caller::fix();
    let overridden = value();
    caller::fix_again();
    assert_eq!((before.as_str(), overridden.as_str(), value().as_str()), ("on", "on", "off"));
}
