//! Where output goes: results to stdout, talk to stderr, each with or without colour.
//!
//! A reader that has seen enough (`reconcile status | head`) is no error: what was asked for was done, and
//! the exit code tells of that. Everything else that stdout cannot take is one.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::adapter::strip_str;
use serde::Serialize;

use crate::commands::args::Format;
use crate::commands::surroundings::{Stream, Surroundings};

#[derive(Debug)]
pub struct Console {
    pub format: Format,
    pub surroundings: Surroundings,
    reader_left: AtomicBool,
    has_answered: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written")]
pub struct Unwritable(#[source] io::Error);

impl Console {
    pub fn new(format: Format, surroundings: Surroundings) -> Self {
        Self {
            format,
            surroundings,
            reader_left: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes a result; colours are dropped where they are not wanted.
    pub fn print(&self, text: &str) -> Result<(), Unwritable> {
        let stdout = io::stdout().lock();
        self.attempt(write_to(stdout, text, self.surroundings.stdout))
    }

    /// Writes bytes as they are: the output of a service that goes to a file or another program.
    pub fn print_raw(&self, bytes: &[u8]) -> Result<(), Unwritable> {
        let mut stdout = io::stdout().lock();
        self.attempt(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// Writes a value as indented JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Unwritable> {
        self.has_answered.store(true, Ordering::Relaxed);
        let text = serde_json::to_string_pretty(value).map_err(|error| Unwritable(error.into()))?;
        self.print_raw(format!("{}\n", super::escape::json(&text)).as_bytes())
    }

    /// True once an object was written: `-o json` is one.
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Tells people something; a stderr that is gone is nobody to tell.
    pub fn say(&self, text: &str) {
        let stderr = io::stderr().lock();
        drop(write_to(stderr, &format!("{text}\n"), self.surroundings.stderr));
    }

    /// True once whoever read stdout has gone: nothing that only prints needs to go on.
    pub fn reader_left(&self) -> bool {
        self.reader_left.load(Ordering::Relaxed)
    }

    fn attempt(&self, written: io::Result<()>) -> Result<(), Unwritable> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_left.store(true, Ordering::Relaxed);
                Ok(())
            }
            written => written.map_err(Unwritable),
        }
    }
}

/// In one piece: stdout would write each line by itself.
fn write_to(mut stream: impl Write, text: &str, to: Stream) -> io::Result<()> {
    if to.colour {
        stream.write_all(text.as_bytes())?;
    } else {
        stream.write_all(strip_str(text).to_string().as_bytes())?;
    }
    stream.flush()
}
