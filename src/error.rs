//! One error type for the whole extension.
//!
//! Pure code builds an [`Error`]; only `pg/report.rs` hands it to Postgres. So every failure
//! has a SQLSTATE that a program can test, a message in Postgres's tone (lower case, no full stop), and detail
//! and hint in whole sentences, and nothing but this file decides which SQLSTATE a kind of failure has.

use pgrx::PgSqlErrorCode;

/// What went wrong, as far as a caller would act on it; each maps to one SQLSTATE.
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
    /// 55000: something must be set up, or must end, first.
    NotReady,
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
}

impl Code {
    fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Code::Unsupported => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            Code::Connection => PgSqlErrorCode::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            Code::NumberRange => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Code::DateRange => PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            Code::InvalidText => PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            Code::Untranslatable => PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER,
            Code::Null => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Code::InvalidParameter => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Code::Credentials => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Code::Privilege => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Code::Syntax => PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            Code::DuplicateColumn => PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
            Code::UndefinedColumn => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Code::WrongType => PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            Code::Undefined => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Code::Duplicate => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            Code::OutOfMemory => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            Code::Limit => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Code::NotReady => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Code::File => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            Code::Timeout => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            Code::Io => PgSqlErrorCode::ERRCODE_IO_ERROR,
            Code::Configuration => PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
            Code::Internal => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
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
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `message`: lower case, no full stop.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Parts { code, message: message.into(), detail: None, hint: None }))
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

    /// The kind of failure.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The SQLSTATE that it is raised with.
    pub fn sqlstate(&self) -> PgSqlErrorCode {
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
