//! Postgres's `DestReceiver` as a Rust trait: start, one row, end.
//!
//! The executor hands each row over as it makes it, so nothing is collected: no cursor, no tuplestore. The four C
//! callbacks only cast and delegate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::{pg_guard, pg_sys};
use s3_export_core::error::{Code, Error, Result};

use crate::pg::deform::Deformer;
use crate::pg::errors::raise_failed;
use crate::pg::values::{FixedLayoutRow, Values};

/// Origin of a column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// A table's OID, and the number of its column; `None`: it is worked out.
    pub column: Option<(pg_sys::Oid, i16)>,
    /// The query may make it NULL where the table has no NULL.
    pub may_be_null: bool,
}

/// The error of a row that comes before its shape is known.
pub fn early() -> Error {
    Error::new(Code::Internal, "a row came before its shape")
}

/// Takes the rows of one query.
pub trait RowSink {
    /// May come before all else: how many rows the planner expects.
    fn estimate(&mut self, _rows: f64) {}
    /// May come then: where each column of the rows comes from.
    fn origins(&mut self, _origins: &[Origin]) -> Result<()> {
        Ok(())
    }
    /// Comes first, with the shape of the rows.
    ///
    /// # Safety
    /// Rows that come later have this shape: as many columns, of these types. An implementation relies on that when it reads values.
    unsafe fn start(&mut self, shape: &pgrx::PgTupleDesc<'_>) -> Result<()>;
    /// Comes for a row that would cost more to take apart than to read; `None`: it is to come as others do.
    #[inline(always)]
    fn fixed_layout_row(&mut self, _row: &FixedLayoutRow<'_>) -> Option<Result<()>> {
        None
    }
    /// Comes for each other row.
    fn row(&mut self, row: &Values<'_>) -> Result<()>;
}

/// A `DestReceiver` that delegates to a sink for as long as `'a`. Of each kind of sink it has callbacks of its own, into which that
/// of a row is compiled whole.
#[repr(C)]
pub struct Receiver<'a, S> {
    /// First, so that a pointer to it is a pointer to the whole.
    callbacks: pg_sys::DestReceiver,
    sink: &'a mut S,
    deformer: Deformer,
}

impl<'a, S: RowSink> Receiver<'a, S> {
    /// Delegates to `sink`.
    pub fn new(sink: &'a mut S) -> Self {
        let callbacks = pg_sys::DestReceiver {
            receiveSlot: Some(receive_slot::<S>),
            rStartup: Some(start_up::<S>),
            rShutdown: Some(shut_down),
            rDestroy: Some(destroy),
            // SPI takes DestNone for a result to throw away; the other kinds are only asked for by their own code.
            mydest: pg_sys::CommandDest::DestCopyOut,
        };
        Receiver { callbacks, sink, deformer: Deformer::new(0) }
    }

    /// Sink to which the receiver delegates.
    pub fn sink(&mut self) -> &mut S {
        self.sink
    }

    /// For the executor, while `self` stays where it is.
    pub fn as_dest(&mut self) -> *mut pg_sys::DestReceiver {
        std::ptr::from_mut(self).cast()
    }

    /// The receiver that the executor passes to a callback.
    ///
    /// # Safety
    /// `dest` comes from [`Receiver::as_dest`] of a receiver of this kind that is alive.
    unsafe fn from_dest(dest: *mut pg_sys::DestReceiver) -> &'a mut Self {
        // SAFETY: `repr(C)` with the callbacks first; the executor runs one callback at a time.
        unsafe { &mut *dest.cast::<Self>() }
    }

    /// # Safety
    /// `shape` is the executor's descriptor of the rows that it will hand over.
    unsafe fn start(&mut self, shape: pg_sys::TupleDesc) -> Result<()> {
        // SAFETY: the executor's descriptor outlives this call, and the copy is freed with its wrapper.
        let shape = unsafe { pgrx::PgTupleDesc::from_pg_copy(shape) };
        self.deformer = Deformer::new(shape.len());
        // SAFETY: the executor hands over rows of the shape that it has announced, and the sink gets no others.
        unsafe { self.sink.start(&shape) }
    }

    /// # Safety
    /// `slot` is the executor's, and holds a row of the shape that [`Self::start`] was given.
    #[inline(always)]
    unsafe fn row(&mut self, slot: *mut pg_sys::TupleTableSlot) -> Result<()> {
        // SAFETY: the executor's slot is valid, and stays as it is, during the call.
        unsafe {
            if let Some(row) = self.deformer.placed(slot)
                && let Some(done) = self.sink.fixed_layout_row(&row)
            {
                return done;
            }
            let row = self.deformer.deform(slot);
            self.sink.row(&row)
        }
    }
}

/// # Safety
/// Called by the executor, with what [`Receiver::as_dest`] of a receiver of this kind gave it, and the shape of its rows.
unsafe extern "C-unwind" fn start_up<S: RowSink>(dest: *mut pg_sys::DestReceiver, _operation: i32, shape: pg_sys::TupleDesc) {
    // SAFETY: the executor passes back what `as_dest` gave it.
    let receiver = unsafe { Receiver::<S>::from_dest(dest) };
    // SAFETY: the shape is that of the executor's rows.
    match catch_unwind(AssertUnwindSafe(|| unsafe { receiver.start(shape) })) {
        Ok(Ok(())) => {}
        // SAFETY: the executor has called this, and nothing in it needs a drop.
        failed => unsafe { raise_failed(failed) },
    }
}

/// Takes a row. Guarded by hand, since it is called for each row: `pg_guard`'s way out of a call that succeeds takes a tenth of the
/// instructions that a row of two integers does.
///
/// # Safety
/// The same as of [`start_up`], with a slot that has a row.
unsafe extern "C-unwind" fn receive_slot<S: RowSink>(
    slot: *mut pg_sys::TupleTableSlot,
    dest: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the executor passes back what `as_dest` gave it.
    let receiver = unsafe { Receiver::<S>::from_dest(dest) };
    // SAFETY: the slot has a row of the shape that the executor has started with.
    match catch_unwind(AssertUnwindSafe(|| unsafe { receiver.row(slot) })) {
        Ok(Ok(())) => true,
        // SAFETY: the executor has called this, and nothing in it needs a drop.
        failed => unsafe { raise_failed(failed) },
    }
}

/// Nothing to do: the caller of the query finishes the sink, and only when the query has succeeded.
///
/// # Safety
/// No promise is needed: the function touches nothing.
#[pg_guard]
unsafe extern "C-unwind" fn shut_down(_dest: *mut pg_sys::DestReceiver) {}

/// Nothing to do: the receiver lives on the stack of [`crate::query`].
///
/// # Safety
/// No promise is needed: the function touches nothing.
#[pg_guard]
unsafe extern "C-unwind" fn destroy(_dest: *mut pg_sys::DestReceiver) {}
