//! What the program tells of its own work: `tracing` on stderr.
//!
//! Paths and messages of others come up in it, so every value is escaped on its way out, whoever logs it.

use std::fmt;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};

use super::escape::visible;
use crate::commands::args::{Cli, Command};
use crate::commands::surroundings::Surroundings;
use crate::reconciler::news::TARGET;

/// Of this program alone: what the libraries say is theirs.
const VARIABLE: &str = "RECONCILE_LOG";

/// Begins logging. A watcher tells what it does, unless a person sees that anyway; everything else only
/// warns. `RECONCILE_LOG` says otherwise.
pub fn log_to_stderr(surroundings: &Surroundings, cli: &Cli) {
    let watches = cli.once.is_none() && matches!(cli.command, None | Some(Command::Up(_)));
    let directives = match (watches, cli.is_spectated(surroundings)) {
        (true, false) => "reconcile=info".to_owned(),
        // The spectator draws these.
        (true, true) => format!("reconcile=warn,{TARGET}=off"),
        (false, _) => "reconcile=warn".to_owned(),
    };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(directives));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(surroundings.stderr.colour)
        .with_target(false)
        .fmt_fields(escaped_fields());
    // A second subscriber would be a bug of ours, and no reason to refuse the command.
    drop(subscriber.try_init());
}

/// The message, then the other fields as `name=value`.
fn escaped_fields() -> impl for<'w> FormatFields<'w> {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", visible(&text)),
            name => write!(writer, "{name}={}", visible(&text)),
        }
    };
    format::debug_fn(field).delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_in_a_field_acts_on_the_terminal_or_makes_a_line_of_its_own() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(escaped_fields())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let path = std::path::Path::new("a\u{1b}[2J\n\u{202e}.toml");
            tracing::warn!(file = %path.display(), line = 3, code = "bad", "no\u{1b}[31m\n{}", "\u{9b}2J");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            " WARN no\\x1b[31m\\n\\u{9b}2J file=a\\x1b[2J\\n\\u{202e}.toml line=3 code=\"bad\"\n"
        );
    }
}
