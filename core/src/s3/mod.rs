//! One request to S3, from the region and the credentials that it needs to what its failure means.

pub mod bandwidth;
mod body;
pub mod bucket;
pub mod call;
mod caught;
pub mod checksum;
mod claims;
pub mod client;
pub mod credentials;
mod delete;
pub mod digest;
pub mod failure;
pub mod get;
pub mod head;
mod headers;
pub mod listing;
mod multipart;
pub mod network;
pub mod object;
pub mod properties;
pub mod put;
mod put_template;
mod region;
mod requester_pays;
pub mod retry;
pub mod throttle;
mod whole;

pub use self::bucket::Bucket;
pub use self::failure::Failure;
pub use self::retry::RetryPolicies;
pub use self::throttle::Throttle;
