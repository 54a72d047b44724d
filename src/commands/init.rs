//! `reconcile init`: a directory of manifests to begin with. Never writes over anything.

use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::count;
use super::report::escape::visible;
use super::{Run, schema};
use crate::host::project_files::{Written, create_if_missing, manifests_below};
use crate::manifest;
use crate::reconciler::session;

/// The first service: it runs everywhere, does nothing, and shows how everything is done.
const EXAMPLE: &str = include_str!("init/hello.toml");

/// `is 1 manifest already`
fn are(manifests: usize) -> String {
    format!("{} {} already", if manifests == 1 { "is" } else { "are" }, count(manifests, "manifest"))
}

pub fn run(run: &Run<'_>) -> Result<Ended, Failure> {
    for root in session::roots(&run.options) {
        let manifests = manifests_below(&root);
        let files = [
            ("hello.toml", EXAMPLE.to_owned()),
            // A leading `_`: it is there to be read, and never loaded.
            ("_reference.toml", manifest::REFERENCE.to_owned()),
            (schema::FILE, schema::text()),
        ];
        for (name, text) in files {
            let path = root.join(name);
            let shown = path.to_string_lossy();
            if name == "hello.toml" && manifests > 0 && !path.exists() {
                // Whoever has services of his own did not ask for another one to be started.
                let line = format!("left out {}: there {}\n", visible(&shown), are(manifests));
                run.console.print(&line)?;
                continue;
            }
            let line = match create_if_missing(&path, &text)? {
                Written::Created => format!("created  {}\n", visible(&shown)),
                Written::Kept => format!("kept     {}\n", visible(&shown)),
            };
            run.console.print(&line)?;
        }
    }
    run.console.say("`reconcile plan` shows what would be done, `reconcile` does it and keeps it so");
    Ok(ExitCode::Converged.into())
}
