//! One error type for the whole extension.
//!
//! Pure code builds an [`Error`]; only `pg/report.rs` hands it to Postgres. So every failure
//! has a SQLSTATE that a program can test, a message in Postgres's tone (lower case, no full stop), and detail
//! and hint in whole sentences, and nothing but this file decides which SQLSTATE a kind of failure has.

/// Kind of a failure, as far as a caller would act on it; each kind has one SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 0A000: a known wish that this release does not grant.
    Unsupported,
    /// 08001: the endpoint cannot be reached, or no answer came in time.
    Connection,
    /// 22003: the format has no such number.
    NumberRange,
    /// 22008: the format has no such date or time.
    DateRange,
    /// 22021: bytes that are no text in the database's encoding.
    InvalidText,
    /// 22P05: a text that no reader can give back.
    Untranslatable,
    /// 22004: an argument that must have a value is NULL.
    Null,
    /// 22023: an argument or option has a value that makes no sense.
    InvalidParameter,
    /// 25001: the transaction has done, or is, what the work cannot follow.
    ActiveTransaction,
    /// 28000: S3 does not accept the credentials.
    Credentials,
    /// 42501: Postgres or S3 says that this role may not.
    Privilege,
    /// 42601: the query is not one statement.
    Syntax,
    /// 42701: two columns would have the same key.
    DuplicateColumn,
    /// 42703: no such column.
    UndefinedColumn,
    /// 42804: a column's type does not fit.
    WrongType,
    /// 42704: no such integration, bucket or function.
    Undefined,
    /// 42710: the integration exists already.
    Duplicate,
    /// 53200: memory cannot be had.
    OutOfMemory,
    /// 53400: a limit of S3's or of a setting is exceeded.
    Limit,
    /// 54000: a limit of the integration's or of the request's is passed.
    ProgramLimit,
    /// 55000: something must be set up, or must end, first.
    NotReady,
    /// 55P03: others hold a lock for too long.
    LockNotAvailable,
    /// 58P01: a file of the server's cannot be read.
    File,
    /// 57014: a deadline of ours passed.
    Timeout,
    /// 58030: S3 answered with an error that none of the others describes.
    Io,
    /// F0000: the key file or another setting of the server is unusable.
    Configuration,
    /// XX000: an invariant of this extension is broken.
    Internal,
    /// XX001: an export in the bucket is not what its manifest says.
    DataCorrupted,
}

impl Code {
    /// Five characters, as Postgres has them.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Code::Unsupported => "0A000",
            Code::Connection => "08001",
            Code::NumberRange => "22003",
            Code::DateRange => "22008",
            Code::InvalidText => "22021",
            Code::Untranslatable => "22P05",
            Code::Null => "22004",
            Code::InvalidParameter => "22023",
            Code::ActiveTransaction => "25001",
            Code::Credentials => "28000",
            Code::Privilege => "42501",
            Code::Syntax => "42601",
            Code::DuplicateColumn => "42701",
            Code::UndefinedColumn => "42703",
            Code::WrongType => "42804",
            Code::Undefined => "42704",
            Code::Duplicate => "42710",
            Code::OutOfMemory => "53200",
            Code::Limit => "53400",
            Code::ProgramLimit => "54000",
            Code::NotReady => "55000",
            Code::LockNotAvailable => "55P03",
            Code::File => "58P01",
            Code::Timeout => "57014",
            Code::Io => "58030",
            Code::Configuration => "F0000",
            Code::Internal => "XX000",
            Code::DataCorrupted => "XX001",
        }
    }
}

/// A failure on its way to the user. Holds no secret: whoever builds one sees to that.
///
/// Elsewhere in memory, so that the result of what happens for each row is a single word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    code: Code,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    transient: bool,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `message`: lower case, no full stop.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Parts { code, message: message.into(), detail: None, hint: None, transient: false }))
    }

    /// Whole sentences about the circumstances.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// A further sentence about the circumstances.
    pub fn also(mut self, sentence: &str) -> Self {
        self.0.detail = Some(self.0.detail.take().map_or_else(|| sentence.to_owned(), |detail| format!("{detail} {sentence}")));
        self
    }

    /// Whole sentences about what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says that the same work may succeed later: the store or the network has failed, and nothing was refused.
    pub fn transient(mut self) -> Self {
        self.0.transient = true;
        self
    }

    /// Whether the same work may succeed later, so that a job may start again.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// The kind of failure.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The SQLSTATE that it is raised with.
    pub fn sqlstate(&self) -> &'static str {
        self.0.code.sqlstate()
    }

    /// Lower case, no full stop.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whole sentences about the circumstances.
    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Whole sentences about what to do.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// A data-sized buffer could not be had.
    pub fn out_of_memory(what: &str) -> Self {
        Error::new(Code::OutOfMemory, "out of memory").detail(format!("Failed while growing {what}."))
    }

    /// Message and detail in one line, for a WARNING that carries it along.
    pub fn summary(&self) -> String {
        match &self.0.detail {
            Some(detail) => format!("{}: {detail}", self.0.message),
            None => self.0.message.clone(),
        }
    }
}

/// The error for a key that a set of options does not know: 22023, with the list of those it does.
pub fn unknown_key(what: &str, key: &str, known: &[&str]) -> Error {
    Error::new(Code::InvalidParameter, format!("unknown {what} \"{key}\"")).hint(format!("Known: {}.", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    fn is_sqlstate(text: &&str) -> bool {
        text.len() == 5 && text.chars().all(|character| character.is_ascii_digit() || character.is_ascii_uppercase())
    }

    #[test]
    fn the_documentation_has_a_row_for_each_sqlstate() {
        let page = include_str!("../../docs/errors.md");
        let first_cell = |line: &'static str| Some(line.strip_prefix('|')?.split('|').next()?.trim().trim_matches('`'));
        let documented: BTreeSet<&str> = page.lines().filter_map(first_cell).filter(is_sqlstate).collect();
        // Those of the match in `Code::sqlstate`, which the compiler keeps whole.
        let arms = include_str!("error.rs").lines().filter(|line| line.trim_start().starts_with("Code::"));
        let raised: BTreeSet<&str> = arms.filter_map(|line| line.split('"').nth(1)).filter(is_sqlstate).collect();
        assert!(raised.len() > 20);
        assert_eq!(documented, raised);
    }
}
