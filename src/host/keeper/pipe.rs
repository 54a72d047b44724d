//! Pipes that are read without waiting, and the keeper's own log.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// One line to the keeper's log.
pub fn log(text: &str) {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).map(Duration::from);
    let wall_ms = now.unwrap_or_default().as_millis() as i64;
    // A log that cannot be written is not worth dying for.
    let text = crate::escape::visible(text);
    let _ = writeln!(io::stderr(), "{} {text}", crate::time::rfc3339(wall_ms));
}

/// What is read in one turn; a writer that is never done must not keep everybody else waiting.
const DRAIN_BYTES: usize = 256 << 10;

/// The least that is made room for. Little, and never zeroed: after a fork the first write to each page costs a fault,
/// and there is a fork for each start.
const CHUNK_BYTES: usize = 2 << 10;

/// What a non-blocking descriptor has to give, up to 256 KiB and what there was room for; true once its other side is closed. Of what is left
/// poll(2) tells again.
pub fn drain(from: impl AsFd, into: &mut Vec<u8>) -> bool {
    let mut drained = 0;
    while drained < DRAIN_BYTES {
        into.reserve(CHUNK_BYTES);
        match rustix::io::read(&from, rustix::buffer::spare_capacity(into)) {
            Ok(0) => return true,
            Ok(read) => drained += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return error != rustix::io::Errno::WOULDBLOCK,
        }
    }
    false
}

/// A pipe whose reading end does not block.
pub fn status_pipe() -> io::Result<(File, File)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader.into(), writer.into()))
}

/// Reads whole lines off a buffer, leaving what is not yet complete.
pub fn take_lines(heard: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let Some(last) = heard.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
    let rest = heard.split_off(last + 1);
    let whole = std::mem::replace(heard, rest);
    whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_never_done_is_left_in_the_middle() {
        let zeroes = File::open("/dev/zero").unwrap();
        let mut read = Vec::new();
        assert!(!drain(&zeroes, &mut read));
        assert!((DRAIN_BYTES..2 * DRAIN_BYTES).contains(&read.len()), "{}", read.len());
    }

    #[test]
    fn the_end_of_a_pipe_is_told_after_what_was_in_it() {
        let (reader, mut writer) = status_pipe().unwrap();
        let mut read = Vec::new();
        assert!(!drain(&reader, &mut read));
        writer.write_all(b"last words").unwrap();
        drop(writer);
        assert!(drain(&reader, &mut read));
        assert_eq!(read, b"last words");
    }
}
