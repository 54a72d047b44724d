//! The journals of exits and births as bytes: lines in, lines out, for whatever kind of line.
//!
//! Several processes append to each, one write(2) a line, and each line begins with a line feed of its own: what a
//! full disk or a killed writer cut short spoils no other line. Lines are sealed (see `line`), so that one that
//! was changed on disk is seen to be damaged instead of naming another process. Called by
//! `host::keeper::journal`, whose are the files; pure.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::line::{seal_from, unseal};

/// What a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines<T> {
    /// Every whole line, in the order written.
    pub lines: Vec<T>,
    /// Lines that cannot be used: cut short, changed, or of a kind that is not known.
    pub damaged: usize,
}

/// The bytes of one line, to be written with one write(2).
pub fn encode_line(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_line_into(&mut bytes, line);
    bytes
}

/// The same into `bytes`, which is empty: whoever makes room for it before has no memory to ask for.
pub fn encode_line_into(bytes: &mut Vec<u8>, line: &impl Serialize) {
    bytes.push(b'\n');
    serde_json::to_writer(&mut *bytes, line).expect("a line is plain data with string keys");
    seal_from(bytes, 1);
}

/// What follows the last line feed was cut short, or is being written at this moment: it is no damage yet.
pub fn decode_lines<T: DeserializeOwned>(bytes: &[u8]) -> Lines<T> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &bytes[..end]);
    let mut decoded = Lines { lines: Vec::new(), damaged: 0 };
    for line in whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match unseal(line).and_then(|json| serde_json::from_slice(json).ok()) {
            Some(line) => decoded.lines.push(line),
            None => decoded.damaged += 1,
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Line {
        nonce: u32,
        name: String,
    }

    fn line(nonce: u32) -> Line {
        Line { nonce, name: format!("line \n {nonce}") }
    }

    fn decode(bytes: &[u8]) -> (Vec<Line>, usize) {
        let Lines { lines, damaged } = decode_lines(bytes);
        (lines, damaged)
    }

    #[test]
    fn lines_come_back_in_their_order() {
        let written: Vec<_> = (0..5).map(line).collect();
        assert_eq!(decode(&written.iter().flat_map(encode_line).collect::<Vec<_>>()), (written, 0));
        assert_eq!(decode(b""), (vec![], 0));
    }

    #[test]
    fn the_form_of_a_line_is_fixed() {
        let bytes = encode_line(&Line { nonce: 1, name: "a".into() });
        assert_eq!(String::from_utf8(bytes).unwrap(), "\n{\"nonce\":1,\"name\":\"a\"} 659305ac\n");
    }

    #[test]
    fn a_torn_line_costs_itself_and_not_its_successor() {
        let (first, second, third) = (encode_line(&line(1)), encode_line(&line(2)), encode_line(&line(3)));
        for cut in 2..second.len() - 1 {
            let bytes = [&first[..], &second[..cut], &third[..]].concat();
            assert_eq!(decode(&bytes), (vec![line(1), line(3)], 1), "cut at {cut}");
            let tail = [&first[..], &second[..cut]].concat();
            assert_eq!(decode(&tail), (vec![line(1)], 0), "tail cut at {cut}");
        }
    }

    #[test]
    fn no_flipped_bit_makes_a_line_that_was_not_written() {
        let written: Vec<_> = (0..3).map(line).collect();
        let bytes: Vec<u8> = written.iter().flat_map(encode_line).collect();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let (read, _) = decode(&flipped);
                assert!(read.iter().all(|line| written.contains(line)), "bit {bit} of byte {at}");
                assert!(read.len() >= written.len() - 2, "bit {bit} of byte {at} costs at most two lines");
            }
        }
    }
}
