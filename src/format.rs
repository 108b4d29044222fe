//! What files hold and how they are named for it: format, style, compression.
#![forbid(unsafe_code)]

/// What a file's documents look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json(Wrapping),
    /// One record a row, as Postgres's COPY writes it.
    Csv(CsvStyle),
}

/// How values that JSON has no type for are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// `{"__rockset_type":…,"value":…}`
    Rockset,
    /// Plain JSON, one JSON type a column.
    Plain(NonFinite),
}

/// What NaN and the infinities become in plain JSON.
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
    /// What NULL is, never in quotes.
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
}

impl Algorithm {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Gzip => "gzip",
            Algorithm::Zstd => "zstd",
        }
    }

    /// Levels that it takes, from fast to small. Zstandard's beyond 19 take hundreds of megabytes.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Algorithm::Gzip => 0..=9,
            Algorithm::Zstd => 1..=19,
        }
    }

    /// The level that its own command line takes.
    pub fn default_level(self) -> i32 {
        match self {
            Algorithm::Gzip => 6,
            Algorithm::Zstd => 3,
        }
    }
}

/// What files are named and announced as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    is_csv: bool,
    compression: Option<Algorithm>,
}

impl FileType {
    /// Of files of that format, so compressed.
    pub fn of(format: &Format, compression: Option<Compression>) -> Self {
        FileType { is_csv: matches!(format, Format::Csv(_)), compression: compression.map(|compression| compression.algorithm) }
    }

    /// Its name in SQL.
    pub fn format(self) -> &'static str {
        if self.is_csv { "csv" } else { "json" }
    }

    /// `none`, or its name in SQL.
    pub fn compression(self) -> &'static str {
        self.compression.map_or("none", Algorithm::name)
    }

    /// What follows a file's number, without the first dot.
    pub fn suffix(self) -> &'static str {
        match (self.is_csv, self.compression) {
            (false, None) => "json",
            (false, Some(Algorithm::Gzip)) => "json.gz",
            (false, Some(Algorithm::Zstd)) => "json.zst",
            (true, None) => "csv",
            (true, Some(Algorithm::Gzip)) => "csv.gz",
            (true, Some(Algorithm::Zstd)) => "csv.zst",
        }
    }

    /// Whether a file of some type ends so.
    pub fn is_suffix(text: &str) -> bool {
        matches!(text, "json" | "json.gz" | "json.zst" | "csv" | "csv.gz" | "csv.zst")
    }

    /// Of the `Content-Type` header. There is no `Content-Encoding`, at which clients would unpack a file whose name says that it
    /// is packed.
    pub fn content_type(self) -> &'static str {
        match (self.is_csv, self.compression) {
            (_, Some(Algorithm::Gzip)) => "application/gzip",
            (_, Some(Algorithm::Zstd)) => "application/zstd",
            (false, None) => "application/x-ndjson",
            (true, None) => "text/csv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_known() {
        for is_csv in [false, true] {
            for compression in [None, Some(Algorithm::Gzip), Some(Algorithm::Zstd)] {
                assert!(FileType::is_suffix(FileType { is_csv, compression }.suffix()));
            }
        }
        assert!(!FileType::is_suffix("gz") && !FileType::is_suffix("JSON"));
    }
}
