//! Problems as annotations of a GitHub workflow: `::error file=…,line=…,col=…,title=…::message`.
//!
//! Source: GitHub, "Workflow commands for GitHub Actions", and the escaping of actions/toolkit
//! (packages/core/src/command.ts): `%`, CR and LF in data, `:` and `,` in properties as well.

use std::path::Path;

use crate::manifest::{Problem, Severity};

/// One line for each problem of the file; `workspace` is what file names are relative to.
pub fn annotations(path: &Path, problems: &[Problem], workspace: Option<&Path>) -> String {
    let file = workspace.and_then(|workspace| path.strip_prefix(workspace).ok()).unwrap_or(path);
    let file = property(&file.to_string_lossy());
    problems.iter().map(|problem| annotation(&file, problem)).collect()
}

fn annotation(file: &str, problem: &Problem) -> String {
    let level = match problem.severity {
        Severity::Invalid | Severity::Refused => "error",
        Severity::Warning => "warning",
    };
    let place =
        problem.span.map_or_else(String::new, |span| format!(",line={},col={}", span.line, span.column));
    let title = property(&problem.code);
    let service = problem.service.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    let help = problem.help.as_ref().map_or_else(String::new, |help| format!("\n{help}"));
    let message = data(&format!("{service}{}{help}", problem.message));
    format!("::{level} file={file}{place},title={title}::{message}\n")
}

fn data(text: &str) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    super::escape::visible(&text).into_owned()
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_file_line_and_column() {
        let path = Path::new("/w/manifests/web.toml");
        let text = annotations(path, &samples::problems(), Some(Path::new("/w")));
        assert_eq!(
            text,
            "::error file=manifests/web.toml,line=3,col=1,title=unknown-key::web: there is no key `healt`%0Adid you \
             mean `health`?\n::error file=manifests/web.toml,title=not-allowed::`curl\\x07` is not allowed%0Aby the \
             policy\n"
        );
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        let mut problem = Problem::warning("a,b:c", "100%\r\n::error::x");
        problem.service = Some("web".into());
        let text = annotations(Path::new("a:b,c\n.toml"), &[problem], None);
        assert_eq!(text, "::warning file=a%3Ab%2Cc%0A.toml,title=a%2Cb%3Ac::web: 100%25%0D%0A::error::x\n");
        assert_eq!(text.lines().count(), 1);
    }
}
