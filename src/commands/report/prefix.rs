//! Lines of several services in one stream, each behind the coloured name of its service.
//!
//! Used by `logs` and by `up` on a terminal. Bytes come as they were written, whole lines go out: a part
//! of a line is kept until its end arrives, so that lines of two services never mix.

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};

use super::escape::log_line;
use super::style::paint;

/// Neither red nor green nor yellow, which mean something elsewhere.
const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// A line without an end is shown once it is this long, in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dress {
    /// Behind its service's name, safe for a terminal.
    Named,
    /// Alone, safe for a terminal.
    Plain,
    /// Behind its service's name, bytes as they are: for files and other programs.
    NamedRaw,
    /// Bytes as they are.
    Raw,
}

#[derive(Debug)]
pub struct Prefixer {
    dress: Dress,
    width: usize,
    colours: BTreeMap<String, Style>,
    partial: BTreeMap<String, Vec<u8>>,
}

impl Prefixer {
    /// `names` are those known now; their longest sets the width, and each gets a colour in this order.
    pub fn new<'a>(dress: Dress, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut prefixer = Self { dress, width: 0, colours: BTreeMap::new(), partial: BTreeMap::new() };
        names.into_iter().for_each(|name| prefixer.meet(name));
        prefixer
    }

    pub fn dress(&self) -> Dress {
        self.dress
    }

    /// The complete lines that `bytes` of this service bring, ready to be written.
    pub fn push(&mut self, name: &str, bytes: &[u8]) -> Vec<u8> {
        self.meet(name);
        let mut pending = self.partial.remove(name).unwrap_or_default();
        pending.extend_from_slice(bytes);
        let mut written = Vec::new();
        let mut rest = pending.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.write(name, &rest[..end], &mut written);
            rest = &rest[end + 1..];
        }
        while rest.len() >= MAX_LINE_BYTES {
            self.write(name, &rest[..MAX_LINE_BYTES], &mut written);
            rest = &rest[MAX_LINE_BYTES..];
        }
        if !rest.is_empty() {
            self.partial.insert(name.to_owned(), rest.to_vec());
        }
        written
    }

    /// What is left without a line end, at the end of everything.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        for (name, line) in std::mem::take(&mut self.partial) {
            self.write(&name, &line, &mut written);
        }
        written
    }

    fn meet(&mut self, name: &str) {
        self.width = self.width.max(name.len());
        if !self.colours.contains_key(name) {
            let colour = COLOURS[self.colours.len() % COLOURS.len()];
            self.colours.insert(name.to_owned(), colour.on_default());
        }
    }

    fn write(&self, name: &str, line: &[u8], to: &mut Vec<u8>) {
        let prefix = format!("{name:<width$} |", width = self.width);
        match self.dress {
            Dress::Named => {
                let style = self.colours.get(name).copied().unwrap_or_default();
                to.extend_from_slice(format!("{} ", paint(style, &prefix)).as_bytes());
            }
            Dress::NamedRaw => to.extend_from_slice(format!("{prefix} ").as_bytes()),
            Dress::Plain | Dress::Raw => {}
        }
        match self.dress {
            Dress::Named | Dress::Plain => to.extend_from_slice(log_line(line).as_bytes()),
            Dress::NamedRaw | Dress::Raw => to.extend_from_slice(line),
        }
        to.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> String {
        anstream::adapter::strip_str(std::str::from_utf8(bytes).unwrap()).to_string()
    }

    #[test]
    fn lines_of_two_services_never_mix() {
        let mut lines = Prefixer::new(Dress::Named, ["api", "worker"]);
        assert_eq!(plain(&lines.push("api", b"one\ntw")), "api    | one\n");
        assert_eq!(plain(&lines.push("worker", b"three\n")), "worker | three\n");
        assert_eq!(plain(&lines.push("api", b"o\n")), "api    | two\n");
        assert_eq!(lines.finish(), b"");
    }

    #[test]
    fn the_last_words_are_shown_without_a_line_end() {
        let mut lines = Prefixer::new(Dress::Plain, ["api"]);
        assert_eq!(lines.push("api", b"bye"), b"");
        assert_eq!(lines.finish(), b"bye\n");
        assert_eq!(lines.finish(), b"");
    }

    #[test]
    fn a_line_that_never_ends_is_not_kept_for_ever() {
        let mut lines = Prefixer::new(Dress::Raw, ["api"]);
        let written = lines.push("api", &vec![b'x'; MAX_LINE_BYTES + 5]);
        assert_eq!(written.len(), MAX_LINE_BYTES + 1);
        assert_eq!(lines.finish(), b"xxxxx\n");
    }

    #[test]
    fn a_terminal_gets_safe_lines_and_a_file_the_bytes() {
        let mut terminal = Prefixer::new(Dress::Named, ["api"]);
        assert_eq!(plain(&terminal.push("api", b"\x1b[31mred\x1b[2J\n")), "api | red\\x1b[2J\n");
        let mut file = Prefixer::new(Dress::Raw, ["api"]);
        assert_eq!(file.push("api", b"\x1b[31m\xff\n"), b"\x1b[31m\xff\n");
        let mut files = Prefixer::new(Dress::NamedRaw, ["api"]);
        assert_eq!(files.push("api", b"\x1b[31m\xff\n"), b"api | \x1b[31m\xff\n", "no colour of ours");
    }

    #[test]
    fn each_service_keeps_its_colour() {
        let mut lines = Prefixer::new(Dress::Named, ["a", "b"]);
        let first = lines.push("a", b"x\n");
        assert_ne!(first[..8], lines.push("b", b"x\n")[..8]);
        assert_eq!(first, lines.push("a", b"x\n"));
    }
}
