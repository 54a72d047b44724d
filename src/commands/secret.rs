//! `reconcile secret NAME LABEL`: a derived secret of a service, for those that it talks to.

use super::Run;
use super::args::SecretArgs;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use crate::identity::ServiceId;
use crate::reconciler::secrets;

pub fn run(run: &Run<'_>, args: &SecretArgs) -> Result<Ended, Failure> {
    let name = run.name(&args.name);
    let not_a_service = |error| Failure::message(ExitCode::Usage, format!("`{name}` is no service: {error}"));
    let service = ServiceId::parse(&name).map_err(not_a_service)?;
    let derived = secrets::derived(&run.options, &service, &args.label)?.ok_or_else(|| {
        let message = "no service was started with a secret here yet, and the key is made for the first one";
        Failure::message(ExitCode::Failed, message).help("see `reconcile status` for why it is not started")
    })?;
    if run.console.is_json() {
        run.console.json(&serde_json::json!({ "version": 1, "secret": derived }))?;
    } else {
        run.console.print(&format!("{derived}\n"))?;
    }
    Ok(ExitCode::Converged.into())
}
