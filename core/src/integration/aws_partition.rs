//! AWS's partitions: worlds of their own, with their own ARNs and regions.
#![forbid(unsafe_code)]

/// The partition in an ARN.
pub fn partition_of_arn(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').next()
}

/// The partition a region belongs to.
pub fn partition_of_region(region: &str) -> &'static str {
    PARTITIONS.iter().find(|(prefix, ..)| region.starts_with(prefix)).map_or("aws", |(_, partition, _)| partition)
}

/// A region of the partition that knows every bucket's.
pub fn first_region(partition: &str) -> &'static str {
    PARTITIONS.iter().find(|(_, known, _)| *known == partition).map_or("us-east-1", |(.., region)| region)
}

/// Prefix of its regions' names, name, and a region of each partition other than `aws`.
const PARTITIONS: [(&str, &str, &str); 5] = [
    ("cn-", "aws-cn", "cn-north-1"),
    ("us-gov-", "aws-us-gov", "us-gov-west-1"),
    ("us-iso-", "aws-iso", "us-iso-east-1"),
    ("us-isob-", "aws-iso-b", "us-isob-east-1"),
    ("eusc-", "aws-eusc", "eusc-de-east-1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_known_by_arn_and_region() {
        assert_eq!(partition_of_arn("arn:aws-us-gov:iam::012345678901:role/x"), Some("aws-us-gov"));
        assert_eq!(partition_of_region("cn-northwest-1"), "aws-cn");
        assert_eq!(partition_of_region("us-isob-east-1"), "aws-iso-b");
        assert_eq!(partition_of_region("eu-central-1"), "aws");
        assert_eq!(first_region("aws-us-gov"), "us-gov-west-1");
        assert_eq!(first_region("aws"), "us-east-1");
    }
}
