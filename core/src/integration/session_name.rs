//! The name that CloudTrail shows for a session.
#![forbid(unsafe_code)]

use crate::s3::checksum::sha256_hex;

/// STS's limit, in characters.
const MAX_SESSION_NAME: usize = 64;

/// Names the session after the database role. STS takes 2 to 64 of `[\w+=,.@-]`; where that loses something of the name, a
/// hash tells it from others that lose the same.
pub fn session_name(role: &str) -> String {
    const PREFIX: &str = "s3_export-";
    const HASH: usize = 8;
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_+=,.@-".contains(character);
    let sanitised: String = role.chars().map(|character| if allowed(character) { character } else { '_' }).collect();
    let room = MAX_SESSION_NAME - PREFIX.len();
    if sanitised == role && role.len() <= room {
        return format!("{PREFIX}{role}");
    }
    let kept: String = sanitised.chars().take(room - HASH - 1).collect();
    let hash: String = sha256_hex(role.as_bytes()).chars().take(HASH).collect();
    format!("{PREFIX}{kept}-{hash}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sessions_are_named_after_the_role() {
        assert_eq!(session_name("analyst"), "s3_export-analyst");
        let (odd, other) = (session_name("Ana Lyst"), session_name("Ana/Lyst"));
        assert!(odd.starts_with("s3_export-Ana_Lyst-") && odd != other, "{odd} {other}");
        assert_eq!(session_name(&"x".repeat(54)).len(), 64);
        assert_eq!(session_name(&"x".repeat(63)).len(), 64);
    }

    proptest! {
        #[test]
        fn any_role_gives_a_session_name_that_sts_takes(role in "\\PC{0,63}") {
            let name = session_name(&role);
            prop_assert!((2..=64).contains(&name.len()));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)));
        }
    }
}
