//! The rules for options together: which of them fit the format, the compression and each other.
#![forbid(unsafe_code)]

use crate::error::{Code, Error, Result, unknown_key};
use crate::format::{Algorithm, Compression, CsvStyle, ForceQuote, NonFinite, ParquetStyle, Wrapping};
use crate::naming::keys::manifest_of_run;
use crate::request::Cut;
use crate::request::Partitions;
use crate::request::options::{ExistingRun, Options, SingleFile};
use crate::s3::properties::{ExportProperties, check_metadata, check_tags};

/// Bytes that 10,000 parts of 8 MiB hold.
const DEFAULT_MOST_BYTES: u64 = 10_000 * (8 << 20);

pub fn wrapping(wrap_types: bool, options: &Options) -> Wrapping {
    if wrap_types { Wrapping::Rockset } else { Wrapping::Plain(options.nan.unwrap_or(NonFinite::String)) }
}

/// Options that would do nothing are taken for mistakes.
pub fn refuse_useless(options: &Options, format: &str, wrap_types: bool, is_partitioned: bool) -> Result<()> {
    let csv = [
        ("delimiter", options.delimiter.is_some()),
        ("force_quote", options.force_quote.is_some()),
        ("header", options.header.is_some()),
        ("null", options.null.is_some()),
        ("quote", options.quote.is_some()),
    ];
    let parquet = [
        ("arrow_extension_types", options.arrow_extension_types.is_some()),
        ("bloom_filter_columns", options.bloom_filter_columns.is_some()),
        ("row_group_bytes", options.row_group_bytes.is_some()),
        ("row_group_rows", options.row_group_rows.is_some()),
    ];
    let csv = csv.into_iter().filter(|_| format != "csv").map(|(name, given)| (name, given, "format \"csv\""));
    let parquet = parquet.into_iter().filter(|_| format != "parquet").map(|(name, given)| (name, given, "format \"parquet\""));
    let needless = csv.chain(parquet);
    let others = [
        ("nan", (format != "json" || wrap_types) && options.nan.is_some(), "wrap_types => false"),
        ("partition_columns", !is_partitioned && options.include_partition_columns.is_some(), "partition_by"),
        ("max_file_bytes", options.max_file_bytes.is_some() && !is_single(options), "option \"single_file\""),
        ("content_disposition", options.content_disposition.is_some() && !is_single(options), "option \"single_file\""),
        ("existing_run", options.existing_run.is_some() && options.run_key.is_none(), "option \"run_key\""),
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

/// Returns the properties of the objects. Errors: 22023 for what S3 does not take.
pub fn properties(options: &Options) -> Result<ExportProperties> {
    let invalid = |option: &str| Error::new(Code::InvalidParameter, format!("invalid value for option \"{option}\""));
    let tags = options.tags.clone().unwrap_or_default();
    check_tags(&tags).map_err(|why| invalid("tags").detail(why))?;
    let metadata = options.metadata.clone().unwrap_or_default();
    check_metadata(&metadata).map_err(|why| invalid("metadata").detail(why))?;
    Ok(ExportProperties { tags, metadata, content_disposition: options.content_disposition.clone() })
}

pub fn refuse_same_names(options: &Options) -> Result<()> {
    let file = match &options.single_file {
        Some(SingleFile::Named(name)) => Some(name),
        _ => None,
    };
    let manifest = options.run_key.as_deref().map(manifest_of_run);
    let names: Vec<&String> = [file, manifest.as_ref(), options.manifest_name.as_ref(), options.success_marker.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    // The new file would need the name while the old one has it still.
    if options.existing_run == Some(ExistingRun::Replace) && (file.is_some() || options.manifest_name.is_some()) {
        let what = "existing_run \"replace\" does not go with names for the single file and for a copy of the manifest";
        return Err(Error::new(Code::InvalidParameter, what));
    }
    for (index, name) in names.iter().enumerate() {
        if names.iter().skip(index + 1).any(|other| other == name) {
            return Err(Error::new(Code::InvalidParameter, format!("two objects of the export would be named \"{name}\"")));
        }
    }
    Ok(())
}

/// Returns the style of CSV that the options ask for. Errors: 22023 for options that COPY refuses together.
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

/// Pages of Parquet are packed by themselves, so hard levels gain little there.
const PARQUET_ZSTD_LEVEL: i32 = 1;

pub fn parquet_style(options: &Options) -> ParquetStyle {
    /// The number that DuckDB and pg_parquet have.
    const ROW_GROUP_ROWS: usize = 122_880;
    ParquetStyle {
        row_group_rows: options.row_group_rows.unwrap_or(ROW_GROUP_ROWS),
        row_group_bytes: options.row_group_bytes,
        arrow_extension_types: options.arrow_extension_types.unwrap_or(false),
        bloom_filter_columns: options.bloom_filter_columns.clone().unwrap_or_default(),
    }
}

/// `None`: what is usual for the format.
pub fn compression(name: Option<&str>, level: Option<i32>, format: &str) -> Result<Option<Compression>> {
    let is_parquet = format == "parquet";
    let invalid = |message: &str| Err(Error::new(Code::InvalidParameter, message));
    let algorithm = match (name, name.and_then(Algorithm::of_name)) {
        (_, Some(algorithm)) if is_parquet || algorithm.encodes_files() => algorithm,
        (None, _) if is_parquet => Algorithm::Zstd,
        (None | Some("none"), _) if level.is_none() => return Ok(None),
        (None | Some("none"), _) => return invalid("option \"compression_level\" goes with a compression only"),
        (Some(other), Some(_)) => return invalid(&format!("compression \"{other}\" goes with format \"parquet\" only")),
        (Some(unknown), None) => {
            return Err(unknown_key("compression", unknown, &["none", "gzip", "zstd", "snappy", "lz4"]));
        }
    };
    let Some(levels) = algorithm.levels() else {
        return match level {
            None => Ok(Some(Compression { algorithm, level: algorithm.default_level() })),
            Some(_) => invalid(&format!("compression \"{}\" has no levels", algorithm.name())),
        };
    };
    let default = if is_parquet && algorithm == Algorithm::Zstd { PARQUET_ZSTD_LEVEL } else { algorithm.default_level() };
    let level = level.unwrap_or(default);
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
