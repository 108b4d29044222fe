//! The addresses that the clients of S3 and STS may connect to.
//!
//! An integration names its endpoints, and a name may resolve to anything. Those of a cloud's metadata service give away the
//! server's own credentials, so nobody reaches them; those inside the server's network are a superuser's to give.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far requests may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The Internet alone: endpoints that an administrator named.
    Public,
    /// Private networks and this host too: endpoints that a superuser named, and Amazon's own.
    Private,
}

/// An address that requests may not go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    address: IpAddr,
    metadata: bool,
}

impl Refused {
    /// Whether no integration at all may go there.
    pub fn for_everyone(&self) -> bool {
        self.metadata
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.metadata { "of link-local and metadata services" } else { "of a private network" };
        write!(f, "{} is an address {why}", self.address)
    }
}

impl std::error::Error for Refused {}

/// Metadata services over IPv6: AWS's is within `fd00:ec2::/32`, Google's is `fd20:ce::254`.
const METADATA_V6: [[u16; 2]; 2] = [[0xfd00, 0x0ec2], [0xfd20, 0x00ce]];
/// Metadata services that are not link-local: Alibaba's, Oracle's, Azure's.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];

impl Reach {
    /// Errors: `address` is beyond this reach.
    pub fn check(self, address: IpAddr) -> Result<(), Refused> {
        let plain = embedded_v4(address).map_or(address, IpAddr::V4);
        let metadata = is_metadata(plain);
        if metadata || (self == Reach::Public && is_private(plain)) { Err(Refused { address, metadata }) } else { Ok(()) }
    }

    /// Checks a URL's host that is an address already, which no resolver ever sees. Errors: the address is beyond this reach.
    pub fn check_host(self, host: &str) -> Result<(), Refused> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        bare.parse().map_or(Ok(()), |address| self.check(address))
    }
}

/// Whether a host is a number to some resolvers, such as `2852039166`, `0xa9fea9fe` and `169.254.43518`: its last label is one.
pub fn is_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible and translated ones, NAT64, 6to4, ISATAP and Teredo.
fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // `::` and `::1` are no IPv4 addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, _, _, _, _, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        // ISATAP, and Teredo, which has its client's address turned over.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        _ => None,
    }
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || METADATA_V4.contains(&address),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || METADATA_V6.iter().any(|network| address.segments().starts_with(network))
        }
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmarking = a == 198 && (b & 0xfe) == 18;
            address.is_private()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
                || a == 0
                || a >= 240
                || shared
                || [a, b, c] == [192, 0, 0]
                || benchmarking
        }
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let site_local = address.segments()[0] & 0xffc0 == 0xfec0;
    address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_unique_local() || site_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reach: Reach, address: &str) -> bool {
        reach.check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_are_beyond_everyones_reach_in_every_form() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fe80::1",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "::ffff:0:169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "fe80::5efe:a9fe:a9fe",
            "2a00::5efe:a9fe:a9fe",
            "2001:0:1:2:3:4:5601:5601",
            "fd20:ce::254",
            "192.0.0.192",
            "168.63.129.16",
        ] {
            assert!(!check(Reach::Private, address), "{address}");
            assert!(!check(Reach::Public, address), "{address}");
        }
    }

    #[test]
    fn private_networks_are_within_a_superusers_reach_only() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fd12::1",
            "fec0::1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(check(Reach::Private, address), "{address}");
            assert!(!check(Reach::Public, address), "{address}");
        }
    }

    #[test]
    fn the_internet_is_within_everyones_reach() {
        for address in ["52.218.0.1", "3.5.140.2", "2600:1fa0:8000::1", "172.32.0.1", "100.128.0.1"] {
            assert!(check(Reach::Public, address), "{address}");
        }
    }

    #[test]
    fn numbers_are_no_names() {
        for host in ["2852039166", "0xa9fea9fe", "0XA9.254", "169.254.43518", "169.254.169.254.", "0x", "a.1"] {
            assert!(is_number(host), "{host}");
        }
        for host in ["s3.example.com", "1.example", "0xz", "x1", "localhost", ""] {
            assert!(!is_number(host), "{host}");
        }
    }

    #[test]
    fn hosts_are_checked_when_they_are_addresses() {
        assert!(Reach::Private.check_host("[::ffff:169.254.169.254]").is_err());
        assert!(Reach::Private.check_host("169.254.169.254").is_err());
        assert!(Reach::Public.check_host("[::1]").is_err());
        assert!(Reach::Public.check_host("s3.example.com").is_ok());
    }
}
