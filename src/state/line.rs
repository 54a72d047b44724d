//! The framing of every journal: `<body> <8 hex digits of blake3(body)>` and a line feed.
//!
//! A line is whole or it is nothing: a torn, flipped or merged line does not pass [`unseal`]. The body holds
//! no line feed (serde_json escapes them). Called by `codec` and `journals`; pure.

/// Hexadecimal digits of the checksum.
const CHECK_DIGITS: usize = 8;

/// One finished line, with its line feed.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(body.len() + CHECK_DIGITS + 2);
    line.extend_from_slice(body);
    seal_from(&mut line, 0);
    line
}

/// Makes a line of the body that begins there.
pub(super) fn seal_from(line: &mut Vec<u8>, body: usize) {
    debug_assert!(!line[body..].contains(&b'\n'), "a body is one line");
    let check = check(&line[body..]);
    line.push(b' ');
    line.extend_from_slice(&check);
    line.push(b'\n');
}

/// The body of a line (without its line feed), if its checksum is right.
pub(super) fn unseal(line: &[u8]) -> Option<&[u8]> {
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(CHECK_DIGITS)?)?;
    let body = rest.strip_suffix(b" ")?;
    (check(body) == digits).then_some(body)
}

/// Lower case, so that each body has exactly one good line.
fn check(body: &[u8]) -> [u8; CHECK_DIGITS] {
    let hex = blake3::hash(body).to_hex();
    let mut digits = [0; CHECK_DIGITS];
    digits.copy_from_slice(&hex.as_bytes()[..CHECK_DIGITS]);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_unsealed() {
        for body in ["", "{}", "a b c", " "] {
            let line = seal(body.as_bytes());
            assert_eq!(line.last(), Some(&b'\n'));
            assert_eq!(unseal(&line[..line.len() - 1]), Some(body.as_bytes()));
        }
    }

    #[test]
    fn a_changed_line_is_no_line() {
        let line = seal(b"{\"nonce\":\"0123456789abcdef\"}");
        let line = &line[..line.len() - 1];
        for at in 0..line.len() {
            assert_eq!(unseal(&line[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut flipped = line.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(unseal(&flipped), None, "bit {bit} of byte {at}");
            }
        }
    }
}
