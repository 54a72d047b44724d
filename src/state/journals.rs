//! The journals of exits and births, which the keeper, the holders and the newborn write and we read.
//!
//! Each line is one write(2) to an `O_APPEND` file, so lines of several writers never mix. A line that a full
//! disk or a killed writer cut short is dropped, and the whole line that the next writer put right behind it is
//! still found. Bytes in, lines out: the files themselves are `host`'s. A line may be there twice; readers go
//! by its nonce.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::line::{seal, unseal};
use super::{BirthLine, ExitLine};

/// How the JSON of every line starts, and nothing inside it: the nonce is the first field of both kinds.
const START: &[u8] = b"{\"nonce\":";

/// The line for `exits.journal`, to be written with one write(2).
pub fn encode_exit(line: &ExitLine) -> Vec<u8> {
    encode(line)
}

/// Every whole line of `exits.journal`, in the order written.
pub fn decode_exits(bytes: &[u8]) -> Vec<ExitLine> {
    decode(bytes)
}

/// The line for `births.journal`, to be written with one write(2).
pub fn encode_birth(line: &BirthLine) -> Vec<u8> {
    encode(line)
}

/// Every whole line of `births.journal`, in the order written.
pub fn decode_births(bytes: &[u8]) -> Vec<BirthLine> {
    decode(bytes)
}

fn encode<T: Serialize>(line: &T) -> Vec<u8> {
    seal(&serde_json::to_vec(line).expect("a line is plain data with string keys"))
}

/// What follows the last line feed was cut short, or is being written at this moment.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    bytes.split_inclusive(|&b| b == b'\n').filter_map(|line| decode_line(line.strip_suffix(b"\n")?)).collect()
}

/// The line from its last start on: what is before that was cut short without a line feed of its own.
fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let start = line.windows(START.len()).rposition(|window| window == START)?;
    serde_json::from_slice(unseal(&line[start..])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BootId, Nonce, Pid, ProcessIdentity};
    use crate::state::{Containment, ExitStatus};
    use crate::time::Stamp;

    fn exit(n: u64) -> ExitLine {
        ExitLine {
            nonce: Nonce::from_u64(n),
            pid: Pid::new(100 + n as i32).unwrap(),
            start_ticks: 4_000 + n,
            status: if n.is_multiple_of(2) { ExitStatus::Code(n as i32) } else { ExitStatus::Signal(9) },
            at: Stamp { boot: BootId::new("b"), boottime_ms: n, awake_ms: n, wall_ms: 1_763_000_000_000 },
        }
    }

    fn birth(n: u64) -> BirthLine {
        let process = ProcessIdentity {
            pid: Pid::new(200 + n as i32).unwrap(),
            start_ticks: n,
            boot: BootId::new("b"),
            pid_ns: 4_026_531_836,
        };
        let containment = if n.is_multiple_of(2) {
            Containment::Cgroup { path: "/sys/fs/cgroup/reconcile/web".into() }
        } else {
            Containment::Holder { process: process.clone() }
        };
        BirthLine { nonce: Nonce::from_u64(n), process, containment }
    }

    #[test]
    fn lines_come_back_in_their_order() {
        let exits: Vec<_> = (0..5).map(exit).collect();
        let births: Vec<_> = (0..5).map(birth).collect();
        assert_eq!(decode_exits(&exits.iter().flat_map(encode_exit).collect::<Vec<_>>()), exits);
        assert_eq!(decode_births(&births.iter().flat_map(encode_birth).collect::<Vec<_>>()), births);
        assert_eq!(decode_exits(b""), []);
    }

    #[test]
    fn the_form_of_a_line_is_fixed() {
        let line = String::from_utf8(encode_exit(&exit(1))).unwrap();
        assert_eq!(
            line,
            "{\"nonce\":\"0000000000000001\",\"pid\":101,\"start_ticks\":4001,\"status\":{\"signal\":9},\
             \"at\":{\"boot\":\"b\",\"boottime_ms\":1,\"awake_ms\":1,\"wall_ms\":1763000000000}} 31cad100\n"
        );
    }

    #[test]
    fn a_torn_line_costs_itself_and_not_its_successor() {
        let (first, second, third) = (encode_exit(&exit(1)), encode_exit(&exit(2)), encode_exit(&exit(3)));
        for cut in 1..second.len() {
            let bytes = [&first[..], &second[..cut], &third[..]].concat();
            assert_eq!(decode_exits(&bytes), [exit(1), exit(3)], "cut at {cut}");
            assert_eq!(decode_exits(&[&first[..], &second[..cut]].concat()), [exit(1)], "tail cut at {cut}");
        }
    }

    #[test]
    fn no_flipped_bit_makes_a_line_that_was_not_written() {
        let written: Vec<_> = (0..3).map(birth).collect();
        let bytes: Vec<u8> = written.iter().flat_map(encode_birth).collect();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let read = decode_births(&flipped);
                assert!(read.iter().all(|line| written.contains(line)), "bit {bit} of byte {at}");
                assert!(read.len() >= written.len() - 2, "bit {bit} of byte {at} costs at most two lines");
            }
        }
    }
}
