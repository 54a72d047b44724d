//! Descriptors kept back for what must not fail for want of one: signals and kills.
//!
//! Spawns leave them alone. They are given up for one act at a time, and taken again after it.

use std::fs::File;
use std::io;

/// As many as an act opens at a time; deep trees of processes take more, and are killed from the top down.
const KEPT_BACK: usize = 12;

#[derive(Debug, Default)]
pub struct Reserve(Vec<File>);

impl Reserve {
    /// `Err`: some are missing, and whoever can wait should.
    pub fn fill(&mut self) -> io::Result<()> {
        while self.0.len() < KEPT_BACK {
            self.0.push(File::open("/dev/null")?);
        }
        Ok(())
    }

    pub fn give_up(&mut self) {
        self.0.clear();
    }
}
