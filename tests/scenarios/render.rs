//! A plan as lines of text: what a scenario file expects, and what its failure shows.

use std::collections::BTreeMap;
use std::time::Duration;

use reconcile::plan::{Action, Later, Plan, Step};
use reconcile::state::{Reason, Record};
use serde_json::Value;

/// Steps in their order, then those that come later, notes, probes, phases, and the time of the next look.
///
/// A phase shows its reason unless that is the reason of the step just above.
pub fn plan(plan: &Plan) -> String {
    let mut lines: Vec<String> = plan.steps.iter().map(step).collect();
    lines.extend(plan.later.iter().map(later));
    lines.extend(plan.notes.iter().map(note));
    lines.extend(plan.probes.iter().map(|service| format!("probe {service}")));
    for (service, view) in &plan.phases {
        let phase = word(&view.phase);
        let is_that_of_a_step =
            plan.steps.iter().any(|step| step.service == *service && step.reason == view.reason);
        lines.push(if is_that_of_a_step {
            format!("{service} is {phase}")
        } else {
            format!("{service} is {phase}: {}", reason(&view.reason))
        });
    }
    lines.extend(plan.wake_in.map(|wake| format!("look again in {}", span(wake))));
    lines.join("\n")
}

fn step(Step { service, action, reason: why }: &Step) -> String {
    let clears = *action == Action::Start && why.clears_failures();
    let counters = if clears { ", counters cleared" } else { "" };
    format!("{} {service}: {}{counters}", word(action), reason(why))
}

fn later(Later { step, wave, after }: &Later) -> String {
    let after: Vec<String> = after.iter().map(ToString::to_string).collect();
    format!("in wave {wave}, after {}, {}", after.join(" "), self::step(step))
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

/// The code, and each field as `name=JSON`.
fn reason(reason: &Reason) -> String {
    let Value::Object(fields) = serde_json::to_value(reason).unwrap() else { panic!("{reason:?}") };
    let evidence = fields.iter().filter(|(name, _)| *name != "code");
    let mut words = vec![reason.code().to_owned()];
    words.extend(evidence.map(|(name, value)| format!("{name}={value}")));
    words.join(" ")
}

fn note(record: &Record) -> String {
    match record {
        Record::Ready { service, at, .. } => {
            format!("note {service}: ready since {}", span(Duration::from_millis(at.boottime_ms)))
        }
        Record::Beside { service, beside, .. } => {
            let beside: Vec<String> = beside.iter().map(|(it, nonce)| format!("{it} {nonce}")).collect();
            format!("note {service}: beside {}", beside.join(", "))
        }
        Record::Files { service, files, .. } => {
            let of_patterns = files.restart.values().chain(files.reload.values()).flat_map(BTreeMap::keys);
            let files: Vec<&str> =
                files.env.keys().chain(of_patterns).chain(files.secrets.keys()).map(String::as_str).collect();
            format!("note {service}: files {}", files.join(", "))
        }
        Record::LeaseEnded { holder, services, how, .. } => {
            let services: Vec<String> = services.iter().map(ToString::to_string).collect();
            format!("note the lease of {holder} on {}: {}", services.join(", "), word(how))
        }
        Record::Deactivated { service } => format!("note {service}: deactivated"),
        Record::GuardLatched { service, why } => format!("note {service}: guard latched, {}", reason(why)),
        Record::GuardReleased { service } => format!("note {service}: guard released"),
        other => panic!("the planner does not write {other:?}"),
    }
}

fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace(' ', "")
}
