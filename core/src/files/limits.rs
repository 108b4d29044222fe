//! Limits of one export as a whole, over all of its partitions and files: how much a grant can move at once.
#![forbid(unsafe_code)]

use crate::error::{Code, Error, Result};
use crate::files::chunker::Totals;

/// The most that one export may write. `None`: any amount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportLimits {
    /// Who sets the limits, such as `integration "lake"`, for the message.
    pub setter: String,
    /// Column `max_documents`.
    pub documents: Option<u64>,
    /// Column `max_bytes`: bytes of files as they are stored.
    pub bytes: Option<u64>,
    /// Bytes that the integration may still write today, for `max_bytes_per_day`. `None`: any number.
    pub of_day: Option<ByteLimit>,
}

/// A limit to the bytes of all files together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteLimit {
    /// Most bytes.
    pub most: u64,
    /// Error of an export that has more.
    pub passed: Error,
}

impl ExportLimits {
    /// Whether a limit counts bytes.
    pub fn count_bytes(&self) -> bool {
        self.bytes.is_some() || self.of_day.is_some()
    }

    /// Errors: 54000 when a limit is passed.
    pub fn check(&self, totals: &Totals) -> Result<()> {
        self.check_documents(totals.documents)?;
        self.check_bytes(totals.bytes)
    }

    /// Errors: 54000 for so many documents.
    pub fn check_documents(&self, documents: u64) -> Result<()> {
        self.documents.map_or(Ok(()), |limit| self.check_one("documents", "max_documents", documents, limit))
    }

    /// Errors: 54000 for so many bytes.
    pub fn check_bytes(&self, bytes: u64) -> Result<()> {
        self.bytes.map_or(Ok(()), |limit| self.check_one("bytes", "max_bytes", bytes, limit))?;
        match &self.of_day {
            Some(limit) if bytes > limit.most => Err(limit.passed.clone()),
            _ => Ok(()),
        }
    }

    fn check_one(&self, unit: &str, column: &str, count: u64, limit: u64) -> Result<()> {
        if count <= limit {
            return Ok(());
        }
        Err(Error::new(
            Code::ProgramLimit,
            format!("the export has more than {limit} {unit}, which is {column} of {}", self.setter),
        )
        .detail("The export is rolled back.")
        .hint(format!("Export less at once, or ask for a higher {column}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(documents: u64, bytes: u64) -> Totals {
        Totals { documents, files: 1, bytes }
    }

    fn limits(documents: Option<u64>, bytes: Option<u64>) -> ExportLimits {
        ExportLimits { setter: "integration \"lake\"".to_owned(), documents, bytes, of_day: None }
    }

    #[test]
    fn a_limit_is_passed_by_one_more() {
        let both = limits(Some(10), Some(1000));
        assert_eq!(both.check(&totals(10, 1000)), Ok(()));
        for (documents, bytes, limit) in
            [(11, 1000, "10 documents, which is max_documents"), (10, 1001, "1000 bytes, which is max_bytes")]
        {
            let error = both.check(&totals(documents, bytes)).unwrap_err();
            assert_eq!((error.code(), error.sqlstate()), (Code::ProgramLimit, "54000"));
            assert!(error.message().contains(limit) && error.message().contains("integration \"lake\""), "{error:?}");
        }
    }

    #[test]
    fn the_bytes_of_a_day_have_an_error_of_their_own() {
        let passed = Error::new(Code::ProgramLimit, "enough for today");
        let of_day = Some(ByteLimit { most: 10, passed: passed.clone() });
        let limits = ExportLimits { of_day, ..limits(None, Some(100)) };
        assert_eq!(limits.check_bytes(10), Ok(()));
        assert_eq!(limits.check(&totals(0, 11)), Err(passed));
        assert!(limits.check_bytes(101).unwrap_err().message().contains("max_bytes"));
    }

    #[test]
    fn without_a_limit_any_amount_will_do() {
        assert_eq!(limits(None, None).check(&totals(u64::MAX, u64::MAX)), Ok(()));
        assert!(limits(None, Some(1)).check(&totals(u64::MAX, 2)).is_err());
        assert!(limits(Some(1), None).check(&totals(2, u64::MAX)).is_err());
    }
}
