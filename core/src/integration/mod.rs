//! What an integration says: its settings, its sealed secret, and the policies that it needs at Amazon.

pub mod aws_partition;
pub mod check;
pub mod file;
pub mod keyring;
pub mod policy;
pub mod seal;
pub mod session_name;
pub mod settings;
