//! `reconcile validate`: manifests under the policy in force; needs no state.

use super::args::ValidateArgs;
use super::exit_code::Ended;
use super::failure::Failure;
use super::report::{ValidationView, count};
use super::{Run, backend, manifests, verdict};
use crate::reconciler::status::ManifestStatus;

pub fn run(run: &Run<'_>, args: &ValidateArgs) -> Result<Ended, Failure> {
    let files = backend::validate(&run.options, &args.paths)?;
    let codes = verdict::of_manifests(&files);
    if run.console.is_json() {
        run.console.json(&ValidationView::new(&files, &codes))?;
    } else {
        // Here the problems are the result; elsewhere they are talk.
        for file in files.iter().filter(|file| !file.problems.is_empty()) {
            run.console.print(&format!("{}\n", manifests::drawn(file)))?;
        }
        run.console.print(&format!("{}\n", summary(&files)))?;
    }
    files.iter().filter_map(|file| manifests::annotated(run, file)).for_each(|notes| {
        run.console.say(notes.trim_end_matches('\n'));
    });
    Ok(codes.into())
}

fn summary(files: &[ManifestStatus]) -> String {
    let bad = files.iter().filter(|file| !file.ok).count();
    let problems = files.iter().map(|file| file.problems.len()).sum();
    match (bad, problems) {
        (0, 0) => format!("{}, no problem", count(files.len(), "manifest")),
        (bad, problems) => {
            format!(
                "{}, {bad} of them not accepted, {}",
                count(files.len(), "manifest"),
                count(problems, "problem")
            )
        }
    }
}
