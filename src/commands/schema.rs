//! `reconcile schema`: the JSON schema of manifests, for editors and checkers.

use super::Run;
use super::args::SchemaArgs;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use super::report::escape::visible;
use crate::host::project_files::replace;
use crate::manifest;
use crate::reconciler::session;

/// What `#:schema ./reconcile.schema.json` in a manifest names.
pub const FILE: &str = "reconcile.schema.json";

pub fn run(run: &Run<'_>, args: &SchemaArgs) -> Result<Ended, Failure> {
    if !args.write {
        run.console.print_raw(text().as_bytes())?;
        return Ok(ExitCode::Converged.into());
    }
    for root in session::roots(&run.options) {
        let path = root.join(FILE);
        replace(&path, &text())?;
        run.console.print(&format!("wrote  {}\n", visible(&path.to_string_lossy())))?;
    }
    Ok(ExitCode::Converged.into())
}

/// Indented, with a line end.
pub fn text() -> String {
    format!("{:#}\n", manifest::schema())
}
