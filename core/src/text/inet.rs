//! `inet` with an IPv4 address as text, without `inet_out` and its formatted printing.
#![forbid(unsafe_code)]

use crate::text::cursor::Append;
use crate::text::number::unsigned;

/// `PGSQL_AF_INET` (`src/include/utils/inet.h`).
const IPV4: u8 = 2;

/// Writes the address as `inet_out` does: `192.168.0.1`, or `192.168.0.0/24` where bits are left to hosts. `payload` is what
/// follows the varlena header: family, bits, address. `false`: it is not IPv4, and nothing was written.
pub fn write_ipv4(out: &mut impl Append, payload: &[u8]) -> bool {
    let [IPV4, bits, a, b, c, d] = *payload else { return false };
    for (byte, index) in [a, b, c, d].into_iter().zip(0..) {
        if index > 0 {
            out.push(b'.');
        }
        unsigned(out, byte.into());
    }
    if bits != 32 {
        out.push(b'/');
        unsigned(out, bits.into());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::buffer::tests::text;

    #[test]
    fn addresses_print_as_inet_out_does() {
        let written = |payload: &[u8]| text(|out| assert!(write_ipv4(out, payload)));
        assert_eq!(written(&[2, 32, 192, 168, 0, 1]), "192.168.0.1");
        assert_eq!(written(&[2, 8, 10, 0, 0, 255]), "10.0.0.255/8");
        assert_eq!(written(&[2, 0, 0, 0, 0, 0]), "0.0.0.0/0");
    }

    #[test]
    fn others_are_left_to_postgres() {
        for payload in [&[][..], &[2, 32, 1, 2, 3], &[3, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(text(|out| assert!(!write_ipv4(out, payload))), "");
        }
    }
}
