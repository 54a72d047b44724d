//! Bytes into lines, in bounded memory. Pure.

/// Bytes of one line; what is longer comes in pieces.
pub const MAX_LINE: usize = 64 * 1024;

/// One line of a log, or a piece of it. Whatever the service wrote: whoever prints it escapes control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Without its end; what is not UTF-8 is replaced.
    pub text: String,
    pub end: LineEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    Newline,
    /// Longer than 64 KiB: the next line goes on with it.
    Split,
    /// The last of the log, not yet ended.
    Open,
}

/// Cuts a stream into lines and keeps the unfinished one.
#[derive(Debug, Default)]
pub struct Splitter {
    open: Vec<u8>,
}

impl Splitter {
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = MAX_LINE - self.open.len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = window.iter().position(|&byte| byte == b'\n');
            let taken = newline.unwrap_or(window.len());
            self.open.extend_from_slice(&window[..taken]);
            bytes = &bytes[taken + usize::from(newline.is_some())..];
            if newline.is_some() {
                lines.push(self.take(LineEnd::Newline));
            } else if self.open.len() == MAX_LINE {
                lines.push(self.take(LineEnd::Split));
            }
        }
        lines
    }

    /// What is left without an end.
    pub fn finish(&mut self) -> Option<Line> {
        (!self.open.is_empty()).then(|| self.take(LineEnd::Open))
    }

    fn take(&mut self, end: LineEnd) -> Line {
        let mut bytes = std::mem::take(&mut self.open);
        if end == LineEnd::Newline && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Line { text: String::from_utf8_lossy(&bytes).into_owned(), end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[Line]) -> Vec<(&str, LineEnd)> {
        lines.iter().map(|line| (line.text.as_str(), line.end)).collect()
    }

    #[test]
    fn lines_come_out_whole_however_they_went_in() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut splitter = Splitter::default();
            let mut lines: Vec<Line> = text.chunks(size).flat_map(|chunk| splitter.feed(chunk)).collect();
            lines.extend(splitter.finish());
            let newline = LineEnd::Newline;
            let expected = [("one", newline), ("", newline), ("two", newline), ("three", LineEnd::Open)];
            assert_eq!(shown(&lines), expected, "in pieces of {size}");
            assert_eq!(splitter.finish(), None);
        }
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let mut splitter = Splitter::default();
        let lines = splitter.feed(&vec![b'x'; MAX_LINE * 2 + 5]);
        assert_eq!(lines.iter().map(|line| line.text.len()).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE]);
        assert!(lines.iter().all(|line| line.end == LineEnd::Split));
        assert_eq!(splitter.feed(b"\n")[0].text.len(), 5);
    }
}
