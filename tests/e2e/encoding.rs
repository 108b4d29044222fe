//! What each Postgres type becomes in JSON: the encoding table of the README, whole.
