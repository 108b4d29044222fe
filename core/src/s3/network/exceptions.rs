//! The hosts that are reached without the proxy: `s3_export.no_proxy`.
//!
//! An entry that is no host, domain or address is an error. Other programs pass over such an entry, and the host that it was meant
//! for is then asked of the proxy without a word.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// This host, in lower case.
    Host(String),
    /// Every host below this domain, which begins with a dot.
    Below(String),
    /// Hosts that are given by an address of this range.
    Range(IpNet),
}

/// A list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<Exception>);

impl Exceptions {
    /// Parses a list whose entries are separated by commas. Errors: the entry that is none.
    pub fn parse(list: &str) -> Result<Self, String> {
        if list.trim().is_empty() {
            return Ok(Exceptions::default());
        }
        list.split(',').map(str::trim).map(parse_entry).collect::<Result<_, _>>().map(Exceptions)
    }

    /// Whether the list has the host of a URL, which may have brackets.
    pub fn contain(&self, host: &str) -> bool {
        let host = bare(host);
        let address: Option<IpAddr> = host.parse().ok();
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.0.iter().any(|exception| match exception {
            Exception::Host(known) => *known == name,
            Exception::Below(domain) => name.len() > domain.len() && name.ends_with(domain.as_str()),
            Exception::Range(range) => address.is_some_and(|address| range.contains(&address)),
        })
    }
}

/// The host of a URL without the brackets of an IPv6 address.
pub fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

fn parse_entry(entry: &str) -> Result<Exception, String> {
    let plain = bare(entry);
    if let Ok(range) = plain.parse::<IpNet>() {
        return Ok(Exception::Range(range));
    }
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok(Exception::Range(IpNet::from(address)));
    }
    let labels = entry.strip_prefix('.').unwrap_or(entry);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A name's last label has a letter: what has none is an address with a slip of the pen.
    let has_letter = labels.rsplit('.').next().is_some_and(|label| label.bytes().any(|byte| byte.is_ascii_alphabetic()));
    if !labels.split('.').all(is_label) || !has_letter {
        return Err(entry.to_owned());
    }
    let name = entry.to_ascii_lowercase();
    Ok(if entry.starts_with('.') { Exception::Below(name) } else { Exception::Host(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_domains_addresses_and_ranges_are_excepted() {
        let list = "minio.example.com, .internal.example,10.0.0.0/8, 192.168.1.7 ,[fd12::1],fd00::/16,localhost";
        let list = Exceptions::parse(list).unwrap();
        for host in [
            "minio.example.com",
            "MinIO.example.com.",
            "a.internal.example",
            "a.b.INTERNAL.example",
            "10.1.2.3",
            "192.168.1.7",
            "[fd12::1]",
            "[fd00:1::1]",
            "localhost",
        ] {
            assert!(list.contain(host), "{host}");
        }
        for host in [
            "bucket.minio.example.com",
            "xminio.example.com",
            "internal.example",
            "xinternal.example",
            "internal.example.com",
            "11.0.0.1",
            "192.168.1.70",
            "[fd12::2]",
            "10.1.2.3.example.com",
        ] {
            assert!(!list.contain(host), "{host}");
        }
        assert_eq!(Exceptions::parse(" "), Ok(Exceptions::default()));
        assert!(!Exceptions::default().contain("localhost"));
    }

    #[test]
    fn an_entry_that_is_none_is_named() {
        for bad in
            ["*", "*.example.com", "a b", "a:9000", "http://a", "10.0.0.0/33", "10.0.0.1.2", "1.2.3", ".", "a..b", "é.example"]
        {
            assert_eq!(Exceptions::parse(&format!("good.example,{bad}")), Err(bad.to_owned()));
        }
        assert_eq!(Exceptions::parse("a,"), Err(String::new()));
        assert_eq!(Exceptions::parse("a,,b"), Err(String::new()));
    }
}
