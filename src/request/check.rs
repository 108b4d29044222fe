//! What options mean together: which of them fit the format, the compression and each other.
#![forbid(unsafe_code)]

use super::{Cut, Partitions, unknown_key};
use crate::error::{Code, Error, Result};
use crate::format::{Algorithm, Compression, CsvStyle, ForceQuote, NonFinite, Wrapping};
use crate::options::{Options, SingleFile};

/// What 10,000 parts of 8 MiB hold.
const DEFAULT_MOST_BYTES: u64 = 10_000 * (8 << 20);

pub fn wrapping(wrap_types: bool, options: &Options) -> Wrapping {
    if wrap_types { Wrapping::Rockset } else { Wrapping::Plain(options.nan.unwrap_or(NonFinite::String)) }
}

/// Options that would do nothing are taken for mistakes.
pub fn refuse_useless(options: &Options, is_csv: bool, wrap_types: bool, is_partitioned: bool) -> Result<()> {
    let csv = [
        ("delimiter", options.delimiter.is_some()),
        ("force_quote", options.force_quote.is_some()),
        ("header", options.header.is_some()),
        ("null", options.null.is_some()),
        ("quote", options.quote.is_some()),
    ];
    let needless = csv.into_iter().filter(|_| !is_csv).map(|(name, given)| (name, given, "format \"csv\""));
    let others = [
        ("nan", (is_csv || wrap_types) && options.nan.is_some(), "wrap_types => false"),
        ("partition_columns", !is_partitioned && options.include_partition_columns.is_some(), "partition_by"),
        ("max_file_bytes", options.max_file_bytes.is_some() && !is_single(options), "option \"single_file\""),
    ];
    match needless.chain(others).find(|(_, given, _)| *given) {
        Some((name, _, with)) => Err(Error::new(Code::InvalidParameter, format!("option \"{name}\" goes with {with} only"))),
        None => Ok(()),
    }
}

/// A file of a name of its own lies in no folder.
pub fn include_query_id(include: bool, options: &Options) -> Result<bool> {
    if include && matches!(options.single_file, Some(SingleFile::Named(_))) {
        return Err(Error::new(Code::InvalidParameter, "include_query_id does not go with a single file of a name of its own"));
    }
    Ok(include)
}

fn is_single(options: &Options) -> bool {
    options.single_file.as_ref().is_some_and(|single| *single != SingleFile::No)
}

pub fn refuse_same_names(options: &Options) -> Result<()> {
    let file = match &options.single_file {
        Some(SingleFile::Named(name)) => Some(name),
        _ => None,
    };
    let names: Vec<&String> =
        [file, options.manifest_name.as_ref(), options.success_marker.as_ref()].into_iter().flatten().collect();
    for (index, name) in names.iter().enumerate() {
        if names.iter().skip(index + 1).any(|other| other == name) {
            return Err(Error::new(Code::InvalidParameter, format!("two objects of the export would be named \"{name}\"")));
        }
    }
    Ok(())
}

/// As COPY checks them.
pub fn csv_style(options: &Options) -> Result<CsvStyle> {
    let style = CsvStyle {
        delimiter: options.delimiter.unwrap_or(b','),
        quote: options.quote.unwrap_or(b'"'),
        null: options.null.clone().unwrap_or_default(),
        header: options.header.unwrap_or(false),
        force_quote: options.force_quote.clone().unwrap_or(ForceQuote::Columns(Vec::new())),
    };
    let clash = if style.delimiter == style.quote {
        "delimiter and quote must be different"
    } else if style.null.bytes().any(|byte| byte == style.delimiter) {
        "delimiter must not appear in null"
    } else if style.null.bytes().any(|byte| byte == style.quote) {
        "quote must not appear in null"
    } else {
        return Ok(style);
    };
    Err(Error::new(Code::InvalidParameter, clash).detail("Postgres could not read such a file."))
}

pub fn compression(name: &str, level: Option<i32>) -> Result<Option<Compression>> {
    let algorithm = match name {
        "none" if level.is_some() => {
            let message = "option \"compression_level\" goes with a compression only";
            return Err(Error::new(Code::InvalidParameter, message));
        }
        "none" => return Ok(None),
        "gzip" => Algorithm::Gzip,
        "zstd" => Algorithm::Zstd,
        unknown => return Err(unknown_key("compression", unknown, &["none", "gzip", "zstd"])),
    };
    let (level, levels) = (level.unwrap_or(algorithm.default_level()), algorithm.levels());
    if !levels.contains(&level) {
        return Err(Error::new(Code::InvalidParameter, "invalid value for option \"compression_level\"").detail(format!(
            "For {} it takes {} to {}.",
            algorithm.name(),
            levels.start(),
            levels.end()
        )));
    }
    Ok(Some(Compression { algorithm, level }))
}

pub fn cut(options: &Options, documents: Option<u64>, bytes: Option<u64>) -> Result<Cut> {
    let name = match &options.single_file {
        None | Some(SingleFile::No) => return Ok(Cut::Chunks { documents, bytes }),
        Some(SingleFile::Numbered) => None,
        Some(SingleFile::Named(name)) => Some(name.clone()),
    };
    if documents.is_some() || bytes.is_some() {
        return Err(Error::new(Code::InvalidParameter, "a single file is not cut into chunks")
            .hint("Leave out output_chunk_size and output_chunk_bytes, or the option single_file."));
    }
    Ok(Cut::SingleFile { name, most_bytes: options.max_file_bytes.unwrap_or(DEFAULT_MOST_BYTES) })
}

pub fn partitions(columns: Option<Vec<String>>, options: &Options) -> Result<Option<Partitions>> {
    let Some(columns) = columns else { return Ok(None) };
    let invalid = |message: &str| Err(Error::new(Code::InvalidParameter, message));
    if columns.is_empty() {
        return invalid("partition_by must name a column");
    }
    if is_single(options) {
        return invalid("a single file cannot be partitioned");
    }
    for (index, column) in columns.iter().enumerate() {
        if columns.iter().skip(index + 1).any(|other| other == column) {
            return invalid(&format!("partition_by names column \"{column}\" more than once"));
        }
    }
    Ok(Some(Partitions { columns, include: options.include_partition_columns.unwrap_or(false) }))
}
