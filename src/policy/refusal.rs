//! The words of a refusal: what is not allowed, what comes nearest, and the very line that would allow it.

use std::path::Path;

use super::allowlist::{Role, Verdict, base_name};
use super::code;
use super::executable::ExecEntry;
use super::in_force::{Purpose, Source};
use super::query::{ResolvedFile, shown};
use crate::escape::visible;
use crate::manifest::Problem;

/// A file of a chain that is not allowed, and why.
pub(super) struct Refused<'f> {
    pub(super) role: Role,
    pub(super) file: &'f ResolvedFile,
    pub(super) source: Source,
    pub(super) verdict: Verdict,
}

/// One problem for a chain: about the first file that is refused, with help for all of them. `refused` is
/// not empty; `listed` is `executables` as it holds.
pub(super) fn problem(purpose: Purpose, refused: &[Refused<'_>], listed: &[ExecEntry]) -> Problem {
    let first = &refused[0];
    let (code, why) = first.why();
    let message = format!("{} {}: {why}", what(purpose, first.role), first.shown());
    Problem::refused(code, message).about(purpose.field()).help(first.help(refused, listed))
}

fn what(purpose: Purpose, role: Role) -> &'static str {
    match (purpose, role) {
        (Purpose::Command, Role::Command) => "the command",
        (Purpose::Health, Role::Command) => "the health command",
        (Purpose::Stop, Role::Command) => "the stop command",
        (Purpose::Reload, Role::Command) => "the reload command",
        (Purpose::Secret, Role::Command) => "the command of a secret",
        (_, Role::Interpreter) => "the interpreter",
    }
}

impl Refused<'_> {
    fn shown(&self) -> String {
        let target = &self.file.file.path;
        if Path::new(&self.file.called) == target {
            format!("`{}`", visible(&self.file.called))
        } else {
            format!("`{}` ({})", visible(&self.file.called), shown(target))
        }
    }

    /// The code, and what comes after the colon.
    fn why(&self) -> (&'static str, String) {
        let list = match self.source {
            Source::Config => "the policy",
            Source::Ceiling => "the ceiling",
        };
        match &self.verdict {
            Verdict::Writable => {
                (code::EXEC_WRITABLE, "somebody but its owner can change that file".to_owned())
            }
            Verdict::OtherContent { .. } => {
                (code::PIN_MISMATCH, format!("its content is not what {list} pins"))
            }
            Verdict::OtherName { name } => {
                (code::EXEC_OTHER_NAME, format!("{list} allows that file only as `{name}`"))
            }
            Verdict::OtherFile { path } => {
                (code::EXEC_OTHER_FILE, format!("what {list} allows by that name is {}", shown(path)))
            }
            Verdict::Allowed | Verdict::NotListed => match self.role {
                Role::Command => (code::EXEC_NOT_ALLOWED, format!("{list} does not allow it")),
                Role::Interpreter => (code::INTERPRETER_NOT_ALLOWED, format!("{list} does not allow it")),
            },
        }
    }

    fn help(&self, refused: &[Self], listed: &[ExecEntry]) -> String {
        match &self.verdict {
            Verdict::Writable => {
                let path = self.file.file.path.to_string_lossy();
                return format!("take that right away: `chmod g-w,o-w {}`", shell_words::quote(&path));
            }
            Verdict::OtherContent { found: Some(found) } => {
                let path = self.file.found.to_string_lossy();
                return match ExecEntry::pin(&path, found) {
                    Ok(pin) => format!("if that content is meant, pin it: `{pin}`"),
                    Err(why) => format!("pin it anew ({why})"),
                };
            }
            Verdict::OtherContent { found: None } => {
                return "it was changed a moment ago; the next pass looks again".to_owned();
            }
            Verdict::OtherName { .. } | Verdict::OtherFile { .. } | Verdict::Allowed | Verdict::NotListed => {
            }
        }
        let missing: Vec<_> = refused.iter().map(|refused| refused.entry()).collect();
        if self.source == Source::Ceiling {
            let lines: Vec<_> = missing.iter().map(ToString::to_string).collect();
            return format!(
                "only the ceiling's own file can allow it: {} in `executables`",
                lines.join(", ")
            );
        }
        let mut line = listed.to_vec();
        let mut flags = String::new();
        for entry in missing {
            let text = match &entry {
                ExecEntry::Name(name) => name.clone(),
                other => other.to_string().trim_matches('"').to_owned(),
            };
            flags.push_str(&format!(" --allow {}", shell_words::quote(&text)));
            line.push(entry);
        }
        let line: Vec<_> = line.iter().map(ToString::to_string).collect();
        format!(
            "allow it below `[policy]` with `executables = [{}]`, which a watcher takes up at once, or for this run with `{}`",
            line.join(", "),
            flags.trim_start()
        )
    }

    /// What would have to be listed: the name if it was called by name, else where it was found.
    fn entry(&self) -> ExecEntry {
        let is_name = !self.file.called.contains('/') && self.file.called == base_name(&self.file.found);
        if is_name {
            ExecEntry::Name(self.file.called.clone())
        } else {
            ExecEntry::Path(self.file.found.clone())
        }
    }
}
