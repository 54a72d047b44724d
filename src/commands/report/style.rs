//! Colours, and aligned columns. Colour repeats what a word says, never more.

use anstyle::{AnsiColor, Effects, Style};

use crate::plan::{Action, Phase};

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const CHANGE: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const HELD: Style = AnsiColor::Magenta.on_default();
pub const FAINT: Style = Style::new().effects(Effects::DIMMED);
pub const STRONG: Style = Style::new().effects(Effects::BOLD);
pub const PLAIN: Style = Style::new();

/// `text` in `style`; the sequences are dropped on the way out where colour is not wanted.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

pub fn of_phase(phase: Phase) -> Style {
    match phase {
        Phase::Running | Phase::Ready => GOOD,
        Phase::Pending | Phase::Starting | Phase::Backoff | Phase::Stopping => CHANGE,
        Phase::Unhealthy | Phase::Failed | Phase::Rejected => BAD,
        Phase::Held => HELD,
        Phase::Stopped | Phase::Completed | Phase::Expired => FAINT,
    }
}

pub fn of_action(action: Action) -> Style {
    match action {
        Action::Start | Action::Adopt => GOOD,
        Action::Restart | Action::Update | Action::Signal | Action::Reload => CHANGE,
        Action::Stop | Action::Kill | Action::Forget | Action::Reject => BAD,
        Action::Hold => HELD,
    }
}

/// A word as in JSON: `ready`, `ttl-expired`.
pub fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("phases and actions are written as words"),
    }
}

#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
    align: Align,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

impl Cell {
    /// `text` is safe for a terminal already.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: PLAIN, align: Align::Left }
    }

    #[must_use]
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    #[must_use]
    pub fn right(mut self) -> Self {
        self.align = Align::Right;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// The text in lines of at most `width` characters, broken at blanks; a longer word is broken anywhere.
    pub fn wrap(self, width: usize) -> Vec<Self> {
        let mut lines = vec![String::new()];
        let mut used = 0;
        for word in self.text.split(' ') {
            let mut rest: Vec<char> = word.chars().collect();
            if used > 0 && used + 1 + rest.len() <= width {
                let line = lines.last_mut().expect("there is a first line");
                line.push(' ');
                line.extend(&rest);
                used += 1 + rest.len();
                continue;
            }
            loop {
                if used > 0 {
                    lines.push(String::new());
                }
                let piece: Vec<char> = rest.drain(..rest.len().min(width.max(1))).collect();
                used = piece.len();
                lines.last_mut().expect("there is a first line").extend(piece);
                if rest.is_empty() {
                    break;
                }
            }
        }
        lines.into_iter().map(|text| Self { text, ..self.clone() }).collect()
    }
}

/// Blanks between two columns.
pub const GAP: usize = 2;

/// Of each column, in characters.
pub fn widths(rows: &[Vec<Cell>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max();
    (0..count).map(|column| width(column).unwrap_or(0)).collect()
}

/// Rows as lines with aligned columns, two spaces between them, nothing after the last. A column that is
/// empty in every row is left out.
pub fn columns(rows: &[Vec<Cell>]) -> String {
    let widths = widths(rows);
    let mut lines = String::new();
    for row in rows {
        let begin = lines.len();
        write_line(row, &widths, &mut lines);
        lines.truncate(begin + lines[begin..].trim_end().len());
        lines.push('\n');
    }
    lines
}

fn write_line(row: &[Cell], widths: &[usize], line: &mut String) {
    let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
    let shown = row.iter().zip(widths).take(last + 1).filter(|(_, width)| **width > 0);
    for (index, (cell, width)) in shown.enumerate() {
        if index > 0 {
            line.extend([' '; GAP]);
        }
        let padding = std::iter::repeat_n(' ', width - cell.width());
        if cell.align == Align::Right {
            line.extend(padding.clone());
        }
        if cell.style == PLAIN {
            line.push_str(&cell.text);
        } else {
            line.push_str(&paint(cell.style, &cell.text));
        }
        if cell.align == Align::Left {
            line.extend(padding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_end_without_blanks() {
        let rows = [
            vec![Cell::new("a"), Cell::new("10").right(), Cell::new(""), Cell::new("x y")],
            vec![Cell::new("long"), Cell::new("9").right(), Cell::new(""), Cell::new("")],
        ];
        assert_eq!(columns(&rows), "a     10  x y\nlong   9\n");
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn a_text_is_broken_at_blanks_and_a_long_word_anywhere() {
        let wrapped = |text: &str, width| -> Vec<String> {
            Cell::new(text).wrap(width).into_iter().map(|cell| cell.text).collect()
        };
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a /very/long/path b", 6), ["a", "/very/", "long/p", "ath b"]);
        assert_eq!(wrapped("", 6), [""]);
        assert_eq!(wrapped("ab", 0), ["a", "b"]);
    }

    #[test]
    fn colour_takes_no_room() {
        let rows = [vec![Cell::new("a").style(BAD), Cell::new("b")], vec![Cell::new("cc"), Cell::new("d")]];
        let plain = anstream::adapter::strip_str(&columns(&rows)).to_string();
        assert_eq!(plain, "a   b\ncc  d\n");
    }
}
