//! What a field takes: ranges and words for the reader and for the schema alike.

use std::time::Duration;

pub(in crate::manifest) enum Kind {
    /// A text on one line, or on several; with a pattern for the schema where the rule is one.
    Text {
        lines: bool,
        pattern: Option<&'static str>,
    },
    /// One of these words.
    Choice(fn() -> Vec<&'static str>),
    /// A text or a list of texts; an empty list means none where it may.
    Command {
        may_be_none: bool,
    },
    /// A path, or a list of paths of which the first that exists counts.
    Directory,
    /// A table of ports by name.
    Ports,
    /// A table of addresses by name.
    Sockets,
    /// A port, or the name of one.
    CheckPort,
    /// `false`, `true` or `"login"`.
    Shell,
    /// A list of texts.
    Texts,
    /// A table of texts.
    TextTable,
    /// A table of anything.
    AnyTable,
    /// A duration within these bounds.
    Duration {
        min: Duration,
        max: Duration,
    },
    Integer {
        min: i64,
        max: i64,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// A number from 1, or `"unlimited"`.
    Count,
    /// A text with a unit, a number of bytes, or `"unlimited"`.
    Size,
    Signal,
    Signals,
    /// A list of exit codes.
    ExitCodes,
    /// A list of services, or a table of them with conditions.
    Dependencies,
    /// A path, or a list of paths and of tables with one.
    EnvFiles,
    /// A table of tables with where each comes from.
    Secrets,
    /// A word, or a table with a duration.
    StopPolicy,
}

impl Kind {
    /// Whether a value that is one hole keeps the type of what fills it; else it is a text, like what is around it.
    pub(in crate::manifest) fn takes_other_than_text(&self) -> bool {
        match self {
            Self::Directory
            | Self::Ports
            | Self::Sockets
            | Self::Secrets
            | Self::CheckPort
            | Self::Shell
            | Self::AnyTable
            | Self::Integer { .. }
            | Self::Number { .. }
            | Self::Count
            | Self::Size
            | Self::ExitCodes
            | Self::Dependencies
            | Self::EnvFiles
            | Self::StopPolicy => true,
            Self::Text { .. }
            | Self::Choice(_)
            | Self::Command { .. }
            | Self::Texts
            | Self::TextTable
            | Self::Duration { .. }
            | Self::Signal
            | Self::Signals => false,
        }
    }

    /// For a message: what should stand there.
    pub(in crate::manifest) fn expected(&self) -> &'static str {
        match self {
            Self::Text { .. } | Self::Choice(_) => "a string",
            Self::Command { .. } => "a string or an array of strings",
            Self::Directory => "a path or an array of paths",
            Self::Ports => "a table of ports",
            Self::Sockets => "a table of addresses",
            Self::CheckPort => "a port, or the name of one",
            Self::Shell => "true, false or \"login\"",
            Self::Texts => "an array of strings",
            Self::TextTable => "a table of strings",
            Self::AnyTable => "a table",
            Self::Duration { .. } => "a duration like \"10s\"",
            Self::Integer { .. } => "an integer",
            Self::Number { .. } => "a number",
            Self::Count => "an integer or \"unlimited\"",
            Self::Size => "a size like \"10MiB\", a number of bytes, or \"unlimited\"",
            Self::Signal => "the name of a signal",
            Self::Signals => "an array of names of signals",
            Self::ExitCodes => "an array of integers",
            Self::Secrets => "a table of tables",
            Self::StopPolicy => "\"on-release\", \"manual\", or a table like { idle = \"30m\" }",
            Self::EnvFiles => "a path, or an array of paths and tables with a path",
            Self::Dependencies => "an array of services, or a table of services and conditions",
        }
    }
}
