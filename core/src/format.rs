//! Formats of files, with their styles and compression, and the names that files have for them.
#![forbid(unsafe_code)]

/// Format of a file's documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json(Wrapping),
    /// One record a row, as Postgres's COPY writes it.
    Csv(CsvStyle),
    /// Columns of typed values.
    Parquet(ParquetStyle),
}

impl Format {
    /// Name of the format in SQL, one of [`FORMATS`].
    pub fn name(&self) -> &'static str {
        match self {
            Format::Json(_) => "json",
            Format::Csv(_) => "csv",
            Format::Parquet(_) => "parquet",
        }
    }
}

/// Names of formats in SQL.
pub const FORMATS: [&str; 3] = ["json", "csv", "parquet"];

/// How Parquet files are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetStyle {
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Bytes, encoded and compressed, with which one ends; `None`: as the memory allows.
    pub row_group_bytes: Option<usize>,
    /// Columns that have bloom filters.
    pub bloom_filter_columns: Vec<String>,
    /// The Arrow schema names the extension types `arrow.uuid` and `arrow.json`.
    pub arrow_extension_types: bool,
}

/// How values that JSON has no type for are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// `{"__rockset_type":…,"value":…}`
    Rockset,
    /// Plain JSON, one JSON type a column.
    Plain(NonFinite),
}

/// Form of NaN and the infinities in plain JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinite {
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`
    String,
    /// `null`
    Null,
}

/// COPY's options for CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvStyle {
    /// Between values.
    pub delimiter: u8,
    /// Around values, and doubled within them.
    pub quote: u8,
    /// Text of NULL, never in quotes.
    pub null: String,
    /// Whether each file begins with the columns' names.
    pub header: bool,
    /// Columns whose values are always in quotes.
    pub force_quote: ForceQuote,
}

/// Columns whose values are always in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForceQuote {
    /// Those of these names.
    Columns(Vec<String>),
    /// All.
    All,
}

impl ForceQuote {
    /// Whether it names that column.
    pub fn holds(&self, column: &str) -> bool {
        match self {
            ForceQuote::Columns(names) => names.iter().any(|name| name == column),
            ForceQuote::All => true,
        }
    }
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// By what.
    pub algorithm: Algorithm,
    /// In the algorithm's own scale.
    pub level: i32,
}

/// Compressed forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Within Parquet.
    Snappy,
    /// Within Parquet, as LZ4_RAW.
    Lz4,
}

impl Algorithm {
    /// Returns the algorithm of that name in SQL.
    pub fn of_name(name: &str) -> Option<Self> {
        [Algorithm::Gzip, Algorithm::Zstd, Algorithm::Snappy, Algorithm::Lz4].into_iter().find(|known| known.name() == name)
    }

    /// Whether a file of any format can be packed by it; the others pack parts of a Parquet file only.
    pub fn encodes_files(self) -> bool {
        matches!(self, Algorithm::Gzip | Algorithm::Zstd)
    }

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Gzip => "gzip",
            Algorithm::Zstd => "zstd",
            Algorithm::Snappy => "snappy",
            Algorithm::Lz4 => "lz4",
        }
    }

    /// Levels that it takes, from fast to small; `None`: it has none. Zstandard's beyond 19 take hundreds of megabytes.
    pub fn levels(self) -> Option<std::ops::RangeInclusive<i32>> {
        match self {
            Algorithm::Gzip => Some(0..=9),
            Algorithm::Zstd => Some(1..=19),
            Algorithm::Snappy | Algorithm::Lz4 => None,
        }
    }

    /// The level that its own command line takes.
    pub fn default_level(self) -> i32 {
        match self {
            Algorithm::Gzip => 6,
            Algorithm::Zstd => 3,
            Algorithm::Snappy | Algorithm::Lz4 => 0,
        }
    }
}

/// Type by which files are named and announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    kind: Kind,
    compression: Option<Algorithm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Csv,
    Parquet,
}

impl FileType {
    /// Returns the type of files of that format and compression.
    pub fn of(format: &Format, compression: Option<Compression>) -> Self {
        let kind = match format {
            Format::Json(_) => Kind::Json,
            Format::Csv(_) => Kind::Csv,
            Format::Parquet(_) => Kind::Parquet,
        };
        FileType { kind, compression: compression.map(|compression| compression.algorithm) }
    }

    /// Its name in SQL.
    pub fn format(self) -> &'static str {
        match self.kind {
            Kind::Json => "json",
            Kind::Csv => "csv",
            Kind::Parquet => "parquet",
        }
    }

    /// `none`, or its name in SQL.
    pub fn compression(self) -> &'static str {
        self.compression.map_or("none", Algorithm::name)
    }

    /// Returns the suffix after a file's number, without the first dot.
    pub fn suffix(self) -> &'static str {
        match (self.kind, self.compression) {
            (Kind::Json, Some(Algorithm::Gzip)) => "json.gz",
            (Kind::Json, Some(Algorithm::Zstd)) => "json.zst",
            (Kind::Json, _) => "json",
            (Kind::Csv, Some(Algorithm::Gzip)) => "csv.gz",
            (Kind::Csv, Some(Algorithm::Zstd)) => "csv.zst",
            (Kind::Csv, _) => "csv",
            // What is packed are its parts.
            (Kind::Parquet, _) => "parquet",
        }
    }

    /// Whether a file of some type ends so.
    pub fn is_suffix(text: &str) -> bool {
        matches!(text, "json" | "json.gz" | "json.zst" | "csv" | "csv.gz" | "csv.zst" | "parquet")
    }

    /// Returns the value of the `Content-Type` header. No `Content-Encoding` is sent: clients would unpack a file whose name says that
    /// the file is packed.
    pub fn content_type(self) -> &'static str {
        match (self.kind, self.compression) {
            (Kind::Parquet, _) => "application/vnd.apache.parquet",
            (_, Some(Algorithm::Gzip)) => "application/gzip",
            (_, Some(Algorithm::Zstd)) => "application/zstd",
            (Kind::Json, _) => "application/x-ndjson",
            (Kind::Csv, _) => "text/csv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_known() {
        for kind in [Kind::Json, Kind::Csv, Kind::Parquet] {
            for compression in [None, Some(Algorithm::Gzip), Some(Algorithm::Zstd)] {
                assert!(FileType::is_suffix(FileType { kind, compression }.suffix()));
            }
        }
        assert!(!FileType::is_suffix("gz") && !FileType::is_suffix("JSON"));
    }
}
