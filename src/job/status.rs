//! States of a job: the one list of them, and the text of each.
//!
//! A state that only some of the SQL knows would leave jobs that nobody runs and nobody deletes. So every statement takes a state's text
//! from here, and a test compares the list with the table's CHECK, its indexes and the view `s3_export.exports` in `sql/catalog.sql`.
#![forbid(unsafe_code)]

/// Makes the enum, its list and its texts out of one row a state.
macro_rules! statuses {
    ($($(#[$doc:meta])* $status:ident = $text:literal,)+) => {
        /// State of a job.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Status {
            $($(#[$doc])* $status,)+
        }

        impl Status {
            /// All states.
            pub const ALL: &[Status] = &[$(Status::$status),+];

            /// Text of the state in the table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Status::$status => $text,)+
                }
            }
        }
    };
}

statuses! {
    /// No worker has the job yet.
    Queued = "QUEUED",
    /// A worker has the job.
    Running = "RUNNING",
    /// The job's manifest is written.
    Completed = "COMPLETED",
    /// The job failed, and nothing that it wrote remains.
    Error = "ERROR",
    /// A user stopped the job.
    Cancelled = "CANCELLED",
}

impl Status {
    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.name() == name)
    }
}
