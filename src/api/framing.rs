//! Lines of a stream, each within a bound. Knows bytes, and nothing of who sends them or how long that may take.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its line feed.
    Whole(Vec<u8>),
    /// There is more to it than it may have; the rest is not read.
    TooLong,
    /// Of the stream. A line that it ends within was never finished, so nobody meant it.
    End,
}

/// The next line, at most `max_bytes` of it. Not safe to cancel: what was read of the line is lost.
pub async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), max_bytes: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut bounded = reader.take(max_bytes as u64 + 1);
    bounded.read_until(b'\n', &mut line).await?;
    Ok(match line.pop_if(|byte| *byte == b'\n') {
        Some(_) => Line::Whole(line),
        None if line.len() > max_bytes => Line::TooLong,
        None => Line::End,
    })
}
