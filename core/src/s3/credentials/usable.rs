//! Checks whether credentials can sign a request.
//!
//! A key id and a session token become headers, and the SDK panics at what can be none: at the line break that was copied with the
//! key, above all.
#![forbid(unsafe_code)]

use aws_credential_types::Credentials;

use crate::error::{Code, Error, Result};
use crate::s3::failure::Failure;

/// Errors: 22023 that names the part that cannot sign, and never shows it.
pub fn check(access_key_id: &str, secret_access_key: &str, session_token: Option<&str>) -> Result<()> {
    let token = session_token.map(|token| ("session_token", token, true));
    let parts = [("access_key_id", access_key_id, true), ("secret_access_key", secret_access_key, false)];
    for (name, value, is_header) in parts.into_iter().chain(token) {
        let why = if value.is_empty() {
            "must not be empty"
        } else if value.contains(char::is_control) {
            "must not hold a control character"
        } else if value.trim() != value {
            "must not begin or end with a space"
        } else if is_header && !value.is_ascii() {
            "must be ASCII"
        } else {
            continue;
        };
        return Err(Error::new(Code::InvalidParameter, format!("{name} {why}"))
            .hint("A line break or a space may have been copied along with it."));
    }
    Ok(())
}

/// Errors: 28000, of credentials that came from elsewhere. `source`: from where.
pub fn checked(credentials: Credentials, source: &str) -> std::result::Result<Credentials, Failure> {
    match check(credentials.access_key_id(), credentials.secret_access_key(), credentials.session_token()) {
        Ok(()) => Ok(credentials),
        Err(error) => Err(Failure::permanent(
            Error::new(Code::Credentials, format!("{source} cannot be used"))
                .detail(format!("The {}.", error.message()))
                .hint("A line break or a space may have been copied along with it."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_header_cannot_sign() {
        assert_eq!(check("AKIA", "s/+= ß", Some("t==")), Ok(()));
        for (key, secret, token) in [
            ("", "s", None),
            ("k", "", None),
            ("k", "s", Some("")),
            ("k\n", "s", None),
            ("k\r\n", "s", None),
            ("k\nk", "s", None),
            ("\u{1}k", "s", None),
            ("k\u{7f}", "s", None),
            ("k\t", "s", None),
            ("k ", "s", None),
            ("ключ", "s", None),
            ("k", "s\n", None),
            ("k", " s", None),
            ("k", "s", Some("t\n")),
            ("k", "s", Some("é")),
        ] {
            let error = check(key, secret, token).unwrap_err();
            assert_eq!(error.code(), Code::InvalidParameter, "{key:?} {secret:?} {token:?}");
            let from_elsewhere = Credentials::new(key, secret, token.map(str::to_owned), None, "test");
            assert_eq!(checked(from_elsewhere, "x").unwrap_err().error.code(), Code::Credentials);
        }
    }
}
