//! in-server tests
