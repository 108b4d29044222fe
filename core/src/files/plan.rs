//! The plan of an export's files: when a file ends, how its bytes are made, how large its parts are, and what of the memory each takes.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::files::chunker::Limits;
use crate::files::compress::most_encoders;
use crate::files::limits::ExportLimits;
use crate::files::parquet;
use crate::format::{Compression, Format, ParquetStyle};
use crate::request::{Cut, Request};

/// Bytes of a part: above S3's least of 5 MiB, and all of one size, as Cloudflare R2 wants parts.
pub const PART_BYTES: usize = 8 << 20;

/// S3's limit of parts for one object.
const MAX_PARTS: u64 = 10_000;

/// Bytes of values in a Parquet file where nobody says otherwise: a file that readers of Parquet like has thousands of rows
/// more than one of JSON, each of which is read by itself.
const PARQUET_FILE_BYTES: u64 = 256 << 20;

/// How the documents of an export become files.
#[derive(Debug, Clone)]
pub struct FilePlan {
    /// Encoding of pieces.
    pub encoding: FileEncoding,
    /// Bytes of a part.
    pub part: usize,
    /// Most bytes that a file may have.
    pub most_bytes: u64,
    /// Limits of all files together.
    pub limits: ExportLimits,
}

/// Encoding of pieces on their way into a file.
#[derive(Debug, Clone)]
pub enum FileEncoding {
    /// Nothing.
    Not,
    /// Their bytes are compressed.
    Compress(Compression),
    /// Their rows are encoded.
    Parquet(Arc<parquet::Layout>),
}

/// Room that the settings of the session give an export.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of `s3_export.buffer_memory`.
    pub buffer_memory: usize,
    /// Documents of a file where the request does not say.
    pub chunk_size: u64,
}

impl FilePlan {
    /// The plan for a request, and the limits by which its documents are cut. Errors: 53400 when parts of a single file, or row groups,
    /// do not fit into the memory.
    pub fn new(request: &Request, export_id: Uuid, room: Room, limits: ExportLimits) -> Result<(Limits, Self)> {
        let encoding = FileEncoding::new(&request.format, request.compression, export_id, room.buffer_memory)?;
        let (documents, bytes, part, most_bytes) = match request.cut {
            Cut::Chunks { documents: None, bytes } if matches!(encoding, FileEncoding::Parquet(_)) => {
                (u64::MAX, bytes.or(Some(PARQUET_FILE_BYTES)), PART_BYTES, u64::MAX)
            }
            Cut::Chunks { documents, bytes } => (documents.unwrap_or(room.chunk_size), bytes, PART_BYTES, u64::MAX),
            Cut::SingleFile { most_bytes, .. } => (u64::MAX, None, part_of_file(most_bytes, room.buffer_memory)?, most_bytes),
        };
        Ok((Limits { documents, bytes, part }, FilePlan { encoding, part, most_bytes, limits }))
    }
}

/// Bytes of a part with which a file may have that many bytes. Errors: 53400 for parts that do not fit into the memory.
fn part_of_file(most_bytes: u64, buffer_memory: usize) -> Result<usize> {
    let least = usize::try_from(most_bytes.div_ceil(MAX_PARTS)).unwrap_or(usize::MAX);
    let part = least.next_multiple_of(1 << 20).max(PART_BYTES);
    if part > buffer_memory {
        return Err(Error::new(Code::Limit, "parts of so large a file do not fit into s3_export.buffer_memory")
            .detail(format!("A file of {most_bytes} bytes has parts of {part} bytes."))
            .hint("Lower the option max_file_bytes, or raise s3_export.buffer_memory."));
    }
    Ok(part)
}

impl FileEncoding {
    fn new(format: &Format, compression: Option<Compression>, export_id: Uuid, buffer_memory: usize) -> Result<Self> {
        match format {
            Format::Parquet(style) => {
                let layout = parquet_layout(style, compression, export_id, buffer_memory)?;
                Ok(FileEncoding::Parquet(Arc::new(layout)))
            }
            _ => Ok(compression.map_or(FileEncoding::Not, FileEncoding::Compress)),
        }
    }
}

/// Half of the memory is for what is on its way; the encoders, each with a row group, have the other half, and as much again for what
/// their codecs keep. Errors: 53400 for row groups that do not fit.
fn parquet_layout(
    style: &ParquetStyle,
    compression: Option<Compression>,
    export_id: Uuid,
    buffer_memory: usize,
) -> Result<parquet::Layout> {
    let memory = buffer_memory / 2;
    let most = memory / most_encoders();
    let row_group_bytes = style.row_group_bytes.unwrap_or(most);
    if row_group_bytes > most {
        return Err(Error::new(Code::Limit, "row groups of that size do not fit into s3_export.buffer_memory")
            .detail(format!("They may have {most} bytes, for {} files that are encoded at once.", most_encoders()))
            .hint("Lower the option row_group_bytes, or raise s3_export.buffer_memory."));
    }
    Ok(parquet::Layout {
        compression,
        row_group_rows: style.row_group_rows,
        row_group_bytes,
        arrow_extension_types: style.arrow_extension_types,
        bloom_filter_columns: style.bloom_filter_columns.clone(),
        export_id: export_id.to_string(),
        memory,
        permits: OnceLock::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::arguments;

    const ROOM: Room = Room { buffer_memory: 128 << 20, chunk_size: 1000 };

    fn plan(format: &str, options: &str, room: Room) -> Result<(Limits, FilePlan)> {
        let mut arguments = arguments();
        arguments.format = Some(format.to_owned());
        arguments.options = Some(options.to_owned());
        FilePlan::new(&Request::from_arguments(arguments)?, Uuid::nil(), room, ExportLimits::default())
    }

    #[test]
    fn files_of_documents_end_by_their_number_and_files_of_parquet_by_their_bytes() {
        let (limits, plan_of_json) = plan("json", "{}", ROOM).unwrap();
        assert_eq!((limits.documents, limits.bytes, limits.part), (1000, None, PART_BYTES));
        assert!(matches!(plan_of_json.encoding, FileEncoding::Not) && plan_of_json.most_bytes == u64::MAX);
        let (limits, _) = plan("parquet", "{}", ROOM).unwrap();
        assert_eq!((limits.documents, limits.bytes), (u64::MAX, Some(256 << 20)));
    }

    #[test]
    fn parts_of_a_single_file_are_as_large_as_ten_thousand_of_them_need() {
        for (most_bytes, part) in
            [(1_u64, 8 << 20), (80_000 << 20, 8 << 20), (80_001 << 20, 9 << 20), (1_000_000 << 20, 100 << 20)]
        {
            let (limits, plan) =
                plan("json", &format!(r#"{{"single_file": true, "max_file_bytes": {most_bytes}}}"#), ROOM).unwrap();
            assert_eq!((limits.part, plan.part, plan.most_bytes), (part, part, most_bytes));
            assert!(plan.part as u64 * MAX_PARTS >= plan.most_bytes);
        }
        let too_large = plan("json", r#"{"single_file": true, "max_file_bytes": 5497558138880}"#, ROOM).unwrap_err();
        assert_eq!(too_large.code(), Code::Limit, "{too_large:?}");
    }

    #[test]
    fn row_groups_of_all_files_at_once_fit_into_half_of_the_memory() {
        let (_, whole) = plan("parquet", "{}", ROOM).unwrap();
        let FileEncoding::Parquet(layout) = whole.encoding else { unreachable!("the format is Parquet") };
        assert!(layout.row_group_bytes * most_encoders() <= ROOM.buffer_memory / 2);
        let most = layout.row_group_bytes;
        let with = |bytes: usize| {
            plan("parquet", &format!(r#"{{"row_group_bytes": {bytes}}}"#), ROOM).map(drop).map_err(|error| error.code())
        };
        assert_eq!((with(most), with(most + 1)), (Ok(()), Err(Code::Limit)));
    }
}
