//! Integrations: their settings, their sealed secrets, and the policies that they need at Amazon.

pub mod aws_partition;
pub mod check;
pub mod file;
pub mod keyring;
pub mod objects;
pub mod policy;
pub mod seal;
pub mod session_name;
pub mod settings;
