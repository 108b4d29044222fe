//! Credentials in a file of the server's, so that a secret need not pass through SQL.
//!
//! Two forms: AWS's credentials file with one profile, and the JSON that `aws iam create-access-key` and `aws sts
//! assume-role` print. Messages say what is missing and never what is there.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Code, Error, Result};
use crate::integration::seal::Credentials;
use crate::secret::Secret;

/// More than any credentials need.
const MAX_BYTES: u64 = 64 * 1024;

/// The access key id and what goes with it.
pub fn read(path: &str) -> Result<(String, Credentials)> {
    let unreadable =
        |why: &str| Error::new(Code::File, format!("could not read credentials from \"{path}\"")).detail(format!("{why}."));
    if !Path::new(path).is_absolute() {
        return Err(Error::new(Code::InvalidParameter, "the path of a credentials file must be absolute"));
    }
    // Looked at before it is opened: to open a pipe would wait for whoever writes to it.
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(unreadable("It is no file, or too large"));
    }
    let file = File::open(path).map_err(|error| unreadable(&error.to_string()))?;
    // All of its room at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| unreadable(&error.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unreadable("It is no UTF-8"))?;
    parse(text).ok_or_else(|| {
        unreadable("It holds no access key and secret key, or more than one")
            .hint("Write it as AWS's credentials file, with one profile, or as the JSON that AWS's command line prints.")
    })
}

fn parse(text: &str) -> Option<(String, Credentials)> {
    let (access_key_id, secret, session_token) =
        if text.trim_start().starts_with('{') { parse_json(text)? } else { parse_profile(text)? };
    let filled = |text: &String| !text.is_empty();
    let credentials = Credentials {
        secret_access_key: Secret::new(Some(secret).filter(filled)?),
        session_token: session_token.filter(filled).map(Secret::new),
    };
    Some((Some(access_key_id).filter(filled)?, credentials))
}

type Fields = (String, String, Option<String>);

fn parse_json(text: &str) -> Option<Fields> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let nested = ["AccessKey", "Credentials"].iter().find(|member| value.get(**member).is_some_and(Value::is_object));
    let object = match nested {
        Some(member) => value.get_mut(*member)?,
        None => &mut value,
    };
    // Taken out, not copied, so that every copy is wiped.
    let mut take = |member: &str| match object.get_mut(member).map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (key, mut secret, mut token) = (take("AccessKeyId"), take("SecretAccessKey"), take("SessionToken"));
    if key.is_none() {
        secret.zeroize();
        token.zeroize();
    }
    Some((key?, secret?, token))
}

fn parse_profile(text: &str) -> Option<Fields> {
    let (mut key, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';', '['])) else { continue };
        let field = match name.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => &mut key,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        // A second profile's: which one is meant?
        if field.replace(value.trim().to_owned()).is_some() {
            secret.zeroize();
            token.zeroize();
            return None;
        }
    }
    Some((key?, secret?, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, String, Option<String>)> {
        let (key, credentials) = parse(text)?;
        let token = credentials.session_token.map(|token| token.expose().to_owned());
        Some((key, credentials.secret_access_key.expose().to_owned(), token))
    }

    #[test]
    fn both_forms_are_read() {
        let expected = Some(("K".to_owned(), "S=/+".to_owned(), None));
        for text in [
            "[default]\naws_access_key_id = K\naws_secret_access_key=S=/+\n",
            "# mine\n; yours = 1\n[x]\r\nregion = eu-1\r\nAWS_ACCESS_KEY_ID = K\r\nAWS_SECRET_ACCESS_KEY = S=/+\r\n",
            r#"{"AccessKey": {"UserName": "u", "AccessKeyId": "K", "Status": "Active", "SecretAccessKey": "S=/+"}}"#,
            r#" {"AccessKeyId": "K", "SecretAccessKey": "S=/+"}"#,
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
        let session = r#"{"Credentials": {"AccessKeyId": "K", "SecretAccessKey": "S", "SessionToken": "T"}}"#;
        assert_eq!(parsed(session), Some(("K".into(), "S".into(), Some("T".into()))));
    }

    #[test]
    fn what_is_incomplete_or_ambiguous_is_refused() {
        for text in [
            "",
            "hello",
            "{}",
            "{",
            "aws_access_key_id = K",
            "aws_secret_access_key = S",
            "aws_access_key_id =\naws_secret_access_key = S",
            "[a]\naws_access_key_id = K\naws_secret_access_key = S\n[b]\naws_access_key_id = K\naws_secret_access_key = S",
            r#"{"AccessKeyId": 1, "SecretAccessKey": "S"}"#,
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
