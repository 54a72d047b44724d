//! `reconcile secret NAME LABEL`: a derived secret of a service, for those that it talks to.

use super::Run;
use super::act::show_refusal;
use super::args::SecretArgs;
use super::exit_code::{Ended, ExitCode};
use super::failure::Failure;
use crate::identity::ServiceId;
use crate::reconciler::secrets;

pub fn run(run: &Run<'_>, args: &SecretArgs) -> Result<Ended, Failure> {
    let name = run.name(&args.name);
    let not_a_service = |error| Failure::message(ExitCode::Usage, format!("`{name}` is no service: {error}"));
    let service = ServiceId::parse(&name).map_err(not_a_service)?;
    let derived = match secrets::derived(&run.options, &service, &args.label)? {
        Ok(derived) => derived,
        Err(refusal) => return show_refusal(run, &refusal),
    };
    if run.console.is_json() {
        run.console.json(&serde_json::json!({ "version": 1, "secret": derived }))?;
    } else {
        run.console.print(&format!("{derived}\n"))?;
    }
    Ok(ExitCode::Converged.into())
}
