//! Damaged ledgers, kept for people to look at: `ledger.damaged-1`, `-2`, …, the newest few.
//!
//! A second name, not a copy: it needs no room on a disk that may be full. Called by `ledger_file` just before
//! the good file takes the first name.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::host::StateLayout;

const PREFIX: &str = "ledger.damaged-";

/// How many are kept.
const KEPT: usize = 5;

/// Gives the ledger a second name.
pub(super) fn keep_damaged(layout: &StateLayout) -> io::Result<PathBuf> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(&layout.dir)? {
        numbers.extend(number(&file?.file_name().to_string_lossy()));
    }
    numbers.sort_unstable();
    let path = |number: u32| layout.dir.join(format!("{PREFIX}{number}"));
    let surplus = (numbers.len() + 1).saturating_sub(KEPT);
    for old in &numbers[..surplus] {
        fs::remove_file(path(*old))?;
    }
    let next = path(numbers.last().map_or(1, |last| last.saturating_add(1)));
    fs::hard_link(layout.ledger(), &next)?;
    Ok(next)
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
