//! Checks of an integration's columns, whose errors say in words what a column may hold.
//!
//! The table's constraints say the same, and hold for plain statements too; but the error of a constraint is a name, with the whole
//! row behind it. Most of the values become headers or parts of a URL, where the SDK panics at what cannot be one.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::integration::objects;
use crate::integration::settings::Settings;
use crate::s3::checksum::Algorithm;

/// Longest name of an integration, in characters.
const MAX_NAME: usize = 63;
/// STS's limits for an external id, in characters.
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;
/// STS's limit for a role's ARN, in characters.
const MAX_ARN: usize = 2048;
/// Longest name of a region, a storage class or an ACL, in characters.
const MAX_WORD: usize = 64;

/// Errors: 22023 for a value that its column does not take. `columns`: of a new integration.
pub fn columns(columns: &Map<String, Value>) -> Result<()> {
    let text = |column: &str| match columns.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Error::new(Code::InvalidParameter, format!("{column} must be a string"))),
    };
    let check = |column: &str, is_good: &dyn Fn(&str) -> bool, hint: &str| match text(column)? {
        Some(value) if !is_good(value) => Err(invalid(column, value).hint(hint)),
        _ => Ok(()),
    };
    let is_name = |name: &str| (1..=MAX_NAME).contains(&name.chars().count()) && !name.contains(char::is_control);
    check("name", &is_name, "It has 1 to 63 characters, none of them a control character.")?;
    check("aws_role", &is_role, "Write the role's ARN, as arn:aws:iam::012345678901:role/name.")?;
    check("aws_external_id", &is_external_id, "It has 2 to 1,224 letters, digits and characters of _+=,.@:/-.")?;
    let endpoint = text("endpoint")?;
    for column in ["fips", "dual_stack"] {
        if endpoint.is_some() && columns.get(column) == Some(&Value::Bool(true)) {
            return Err(only_amazons(column));
        }
    }
    for (column, may_have_path) in [("endpoint", true), ("sts_endpoint", false)] {
        if let Some(url) = text(column)? {
            url_of_a_server(url, may_have_path).map_err(|why| invalid(column, url).detail(why).hint(ENDPOINT_HINT))?;
        }
    }
    let is_region = |region: &str| is_region(region, endpoint.is_some());
    check(
        "region",
        &is_region,
        "Amazon's have lower-case letters, digits and hyphens; with an endpoint, capitals, dots and underscores too.",
    )?;
    let is_account = |owner: &str| owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit());
    check("expected_bucket_owner", &is_account, "It is an account's id, of twelve digits.")?;
    check("sse", &|sse| matches!(sse, "AES256" | "aws:kms" | "aws:kms:dsse"), "It is AES256, aws:kms or aws:kms:dsse.")?;
    check("checksum", &|name| Algorithm::from_name(name).is_some(), "It is crc32, sha256 or none.")?;
    check(
        "storage_class",
        &|class| is_word(class, |byte| byte.is_ascii_uppercase() || byte == b'_'),
        "It has capital letters and underscores, as STANDARD_IA.",
    )?;
    check(
        "object_acl",
        &|acl| is_word(acl, |byte| byte.is_ascii_lowercase() || byte == b'-'),
        "It is the name of a canned ACL, as bucket-owner-full-control.",
    )?;
    for column in ["max_documents", "max_bytes", "max_bytes_per_day"] {
        positive(column, columns)?;
    }
    if let Some(key) = text("kms_key_id")? {
        if !text("sse")?.is_some_and(|sse| sse.starts_with("aws:kms")) {
            return Err(Error::new(Code::InvalidParameter, "kms_key_id needs sse aws:kms or aws:kms:dsse"));
        }
        let hint =
            "Write the key's ARN, which policies can name, and no alias; with an endpoint, what the store calls its key.";
        check("kms_key_id", &|_| is_sent(key) && (endpoint.is_some() || is_key(key)), hint)?;
    }
    objects::kinds(columns)?;
    match (text("credential_source")?, text("aws_profile")?) {
        (Some("profile"), None) => {
            Err(Error::new(Code::InvalidParameter, "credential_source \"profile\" needs the option aws_profile"))
        }
        (Some("profile"), Some(_)) | (_, None) => Ok(()),
        (_, Some(_)) => Err(Error::new(Code::InvalidParameter, "aws_profile goes with credential_source \"profile\" alone")),
    }
}

/// Errors: 22023 for a number that the column does not take.
fn positive(column: &str, columns: &Map<String, Value>) -> Result<()> {
    let is_positive = |value: &Value| value.as_i64().is_some_and(|number| number > 0);
    match columns.get(column) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if is_positive(value) => Ok(()),
        Some(value) => Err(invalid(column, &value.to_string()).hint("It is a whole number from 1 on.")),
    }
}

/// Errors: 22023 for an integration with a value that no request can carry: s3_export.inline_roles has no constraints.
pub fn requests_can_carry(settings: &Settings, what: &str) -> Result<()> {
    for (column, value) in settings.sent() {
        if value.is_some_and(|value| !is_sent(value)) {
            return Err(Error::new(Code::InvalidParameter, format!("{what} has a {column} that no request can carry"))
                .detail("The value is empty, or holds a control character or a character that is not ASCII."));
        }
    }
    for (column, is_set) in [("fips", settings.fips), ("dual_stack", settings.dual_stack)] {
        if is_set && settings.endpoint.is_some() {
            return Err(only_amazons(column).detail(format!("The value belongs to {what}.")));
        }
    }
    for (column, url, may_have_path) in
        [("endpoint", &settings.endpoint, true), ("sts_endpoint", &settings.sts_endpoint, false)]
    {
        if let Some(url) = url {
            url_of_a_server(url, may_have_path).map_err(|why| {
                invalid(column, url).detail(format!("The value belongs to {what}. {why}")).hint(ENDPOINT_HINT)
            })?;
        }
    }
    objects::check(settings, what)
}

fn only_amazons(column: &str) -> Error {
    Error::new(Code::InvalidParameter, format!("{column} goes without an endpoint alone"))
        .hint("It chooses among Amazon's own endpoints. Leave out one of the two.")
}

const ENDPOINT_HINT: &str = "Write it as https://host or https://host:port.";

fn invalid(column: &str, value: &str) -> Error {
    let shown: String = value.chars().filter(|character| !character.is_control()).take(200).collect();
    Error::new(Code::InvalidParameter, format!("invalid {column} \"{shown}\""))
}

/// Whether it can be the value of a header.
fn is_sent(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| (b' '..0x7f).contains(&byte))
}

fn is_word(text: &str, is_part: impl Fn(u8) -> bool) -> bool {
    (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(is_part)
}

/// Stores sign with regions such as `RegionOne`, `NL` and `zg_x`.
fn is_region(region: &str, has_endpoint: bool) -> bool {
    is_word(region, |byte| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'-' => true,
        b'A'..=b'Z' | b'.' | b'_' => has_endpoint,
        _ => false,
    })
}

fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, role] = parts.as_slice() else { return false };
    let is_partition = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    arn.len() <= MAX_ARN
        && is_word(partition, is_partition)
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && role.strip_prefix("role/").is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| is_of(byte, b"_+=,.@/-")))
}

fn is_external_id(id: &str) -> bool {
    EXTERNAL_ID.contains(&id.len()) && id.bytes().all(|byte| is_of(byte, b"_+=,.@:/-"))
}

fn is_key(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "kms", region, account, key] = parts.as_slice() else { return false };
    let is_label = |text: &str| is_word(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    is_label(partition)
        && is_label(region)
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && key.strip_prefix("key/").is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| is_of(byte, b"-")))
}

fn is_of(byte: u8, others: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || others.contains(&byte)
}

/// Errors: a sentence that says what is wrong with the URL.
fn url_of_a_server(url: &str, may_have_path: bool) -> std::result::Result<(), &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or("It is no http or https URL.")?;
    if !is_sent(rest) || rest.contains(' ') {
        return Err("It has no host, or holds a space, a control character or one that is not ASCII.");
    }
    if rest.contains(['?', '#', '@', '\\']) {
        return Err("It has a user, a query or a fragment.");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("Its address has no closing bracket.")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "Its address is none of IPv6.")?;
            (address, port.strip_prefix(':').map_or(if port.is_empty() { None } else { Some("") }, Some))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |byte: u8| is_of(byte, b".-_:");
    if host.is_empty() || !host.bytes().all(is_host) {
        return Err("Its host is none: of other characters than letters, digits, dots, hyphens and underscores.");
    }
    let is_digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !is_digits(port) || port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err("Its port is none.");
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(());
    }
    if !may_have_path {
        return Err("It has a path.");
    }
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(|byte| is_of(byte, b"._~-"));
    if path.split('/').all(is_segment) {
        Ok(())
    } else {
        Err("Its path has other segments than of letters, digits, dots, hyphens, underscores and tildes.")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::integration::settings::tests::settings;

    fn refused(members: Value) -> Option<String> {
        let Value::Object(members) = members else { return None };
        let error = columns(&members).err()?;
        assert_eq!(error.code(), Code::InvalidParameter);
        Some(error.message().to_owned())
    }

    #[test]
    fn what_a_column_takes_and_what_it_does_not() {
        for good in [
            json!({}),
            json!({ "name": "größe", "region": "eu-central-1" }),
            json!({ "region": "RegionOne", "endpoint": "https://swift.example.com:8080/" }),
            json!({ "region": "zg_publicru", "endpoint": "http://[::1]:9000" }),
            json!({ "endpoint": "https://x.supabase.co/storage/v1/s3" }),
            json!({ "aws_role": "arn:aws-cn:iam::012345678901:role/a/b@c", "aws_external_id": "a:b" }),
            json!({ "sse": "aws:kms", "kms_key_id": "arn:aws:kms:eu-1:012345678901:key/0-a" }),
            json!({ "sse": "aws:kms", "kms_key_id": "my key", "endpoint": "https://x" }),
            json!({ "storage_class": "STANDARD_IA", "object_acl": "private", "checksum": "none", "sse": null }),
            json!({ "credential_source": "profile", "aws_profile": "x" }),
            json!({ "fips": true, "dual_stack": true, "sts_endpoint": "https://x" }),
            json!({ "fips": false, "endpoint": "https://x" }),
        ] {
            assert_eq!(refused(good.clone()), None, "{good}");
        }
        for (column, bad) in [
            ("name", json!({ "name": "" })),
            ("name", json!({ "name": "a\nb" })),
            ("region", json!({ "region": "RegionOne" })),
            ("region", json!({ "region": "a\n", "endpoint": "https://x" })),
            ("aws_role", json!({ "aws_role": "arn:aws:iam::012345678901:user/x" })),
            ("aws_role", json!({ "aws_role": "arn:aws:iam::012345678901:role/x y" })),
            ("aws_external_id", json!({ "aws_external_id": "x" })),
            ("kms_key_id", json!({ "kms_key_id": "x" })),
            ("kms_key_id", json!({ "sse": "aws:kms", "kms_key_id": "alias/x" })),
            ("kms_key_id", json!({ "sse": "aws:kms", "kms_key_id": "a\u{1}", "endpoint": "https://x" })),
            ("storage_class", json!({ "storage_class": "cheap" })),
            ("object_acl", json!({ "object_acl": "Public Read" })),
            ("checksum", json!({ "checksum": "md5" })),
            ("sse", json!({ "sse": 1 })),
            ("fips", json!({ "fips": true, "endpoint": "https://x" })),
            ("dual_stack", json!({ "dual_stack": true, "endpoint": "https://x" })),
            ("expected_bucket_owner", json!({ "expected_bucket_owner": "me" })),
            ("aws_profile", json!({ "credential_source": "profile" })),
            ("aws_profile", json!({ "credential_source": "keys", "aws_profile": "x" })),
        ] {
            assert!(refused(bad.clone()).is_some_and(|message| message.contains(column)), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_the_url_of_a_server() {
        for good in ["https://x", "https://x/", "http://127.0.0.1:9000", "https://a_b.c-d:443/e/f.g/", "http://[fd00::1]"] {
            assert_eq!(url_of_a_server(good, true), Ok(()), "{good}");
        }
        for bad in [
            "",
            "x",
            "ftp://x",
            "https://",
            "https:///x",
            "https://x y",
            "https://x\u{1}",
            "https://x\u{7f}",
            "https://bücher.de",
            "https://u@x",
            "https://x?y",
            "https://x#y",
            "https://x:",
            "https://x:0",
            "https://x:99999",
            "https://x:+1",
            "https://[::1",
            "https://[::1]x",
            "https://[x]",
            "https://x//y",
            "https://x/../y",
            "https://x/%2e",
            "https://x\\y",
        ] {
            assert!(url_of_a_server(bad, true).is_err(), "{bad:?}");
        }
        assert!(url_of_a_server("https://x/y", false).is_err());
    }

    #[test]
    fn a_row_that_no_request_can_carry_is_refused_wherever_it_came_from() {
        let row = |members: Value| requests_can_carry(&settings(members), "role x").map_err(|error| error.code());
        assert_eq!(row(json!({ "region": "eu-1", "endpoint": "https://x/y", "kms_key_id": "k" })), Ok(()));
        for (column, _) in settings(json!({})).sent() {
            for value in ["a\n", "", "a\u{7f}", "é"] {
                assert_eq!(row(json!({ column: value })), Err(Code::InvalidParameter), "{column} {value:?}");
            }
        }
        assert!(row(json!({ "endpoint": "https://[x" })).is_err());
        assert!(row(json!({ "endpoint": "https://x", "fips": true })).is_err());
        assert!(row(json!({ "endpoint": "https://x", "dual_stack": true })).is_err());
    }
}
