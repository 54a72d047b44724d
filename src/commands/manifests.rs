//! Problems of manifests, wherever a command meets them: drawn on stderr, and annotated in CI.

use super::Run;
use super::report::{Source, annotations, problems};
use crate::host::excerpt;
use crate::reconciler::status::ManifestStatus;

/// Tells of all problems; nothing if there is none.
pub fn tell(run: &Run<'_>, files: &[ManifestStatus]) {
    for file in files.iter().filter(|file| !file.problems.is_empty()) {
        run.console.say(drawn(file).trim_end_matches('\n'));
        if let Some(notes) = annotated(run, file) {
            run.console.say(notes.trim_end_matches('\n'));
        }
    }
}

/// The problems of a file as a compiler would draw them.
pub fn drawn(file: &ManifestStatus) -> String {
    let judged = file.file.filter(|_| file.may_show_lines);
    let text = judged.and_then(|judged| excerpt::text(&file.path, &judged));
    problems(Source { path: &file.path, text: text.as_deref() }, &file.problems)
}

/// Annotations for a step of a GitHub workflow. On stderr, so that JSON on stdout stays JSON; the runner
/// reads both.
pub fn annotated(run: &Run<'_>, file: &ManifestStatus) -> Option<String> {
    let github = run.console.surroundings.github.as_ref()?;
    Some(annotations(&file.path, &file.problems, github.workspace.as_deref()))
}
