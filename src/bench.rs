//! Measurements of `make bench` inside the server: a query without encoding, and encoding without an upload. Built with the
//! feature `bench` only, and declared by the benchmark itself (benches/), so that no installation has it.

use pgrx::PgTupleDesc;
use pgrx::pg_sys::Datum;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::{Format, NonFinite, Wrapping};
use s3_export_core::request::required;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;

use crate::encode::RowEncoder;
use crate::pg::call::{Call, int8_datum};
use crate::pg::values::{FixedLayoutRow, Row, Values};
use crate::query::Query;
use crate::query::receiver::RowSink;
use crate::sql_function;

sql_function!(s3_export_bench_encode, pg_finfo_s3_export_bench_encode, encode);

/// `s3_export_bench_encode(query text, form text) RETURNS bigint`: the bytes that the query's documents take. `form`: `wrapped`,
/// `plain`, or `rows`, which encodes nothing.
fn encode(call: &Call) -> Result<Datum> {
    let query = Query::parse(&required("query", call.text(0))?, None)?;
    let format = match required("form", call.text(1))?.as_str() {
        "wrapped" => Some(Format::Json(Wrapping::Rockset)),
        "plain" => Some(Format::Json(Wrapping::Plain(NonFinite::String))),
        "rows" => None,
        other => return Err(Error::new(Code::InvalidParameter, format!("unknown form \"{other}\""))),
    };
    let mut sink = Discard { format, encoder: None, buffer: JsonBuffer::new(), bytes: 0 };
    query.run(&[], &mut sink)?;
    Ok(int8_datum(sink.bytes + sink.buffer.len() as u64))
}

/// Bytes that gather before they are thrown away: about what a file of a thousand documents has.
const PIECE: usize = 512 << 10;

struct Discard {
    format: Option<Format>,
    encoder: Option<RowEncoder>,
    buffer: JsonBuffer,
    /// Thrown away so far.
    bytes: u64,
}

impl RowSink for Discard {
    unsafe fn start(&mut self, shape: &PgTupleDesc<'_>) -> Result<()> {
        // SAFETY: by the caller's promise; the encoder is given rows of this sink alone.
        let encoder = |format| unsafe { RowEncoder::new(shape, format, None) };
        self.encoder = self.format.as_ref().map(encoder).transpose()?;
        Ok(())
    }

    #[inline(always)]
    fn fixed_layout_row(&mut self, row: &FixedLayoutRow<'_>) -> Option<Result<()>> {
        Some(self.document(row))
    }

    #[inline(always)]
    fn row(&mut self, row: &Values<'_>) -> Result<()> {
        self.document(row)
    }
}

impl Discard {
    #[inline(always)]
    fn document(&mut self, row: &impl Row) -> Result<()> {
        let Some(encoder) = &self.encoder else { return Ok(()) };
        encoder.document(row, &mut self.buffer)?;
        if self.buffer.failed() {
            return Err(Error::out_of_memory("the buffer of a document"));
        }
        if self.buffer.len() >= PIECE {
            self.bytes += self.buffer.len() as u64;
            self.buffer.truncate(0);
        }
        Ok(())
    }
}
