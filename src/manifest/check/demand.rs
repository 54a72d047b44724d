//! What a service runs for: `activation`, `lifecycle` and `stop_policy`, and whether they go together.

use toml::de::DeValue;

use super::templates::Known;
use crate::manifest::code;
use crate::manifest::demand::{ActivateOn, Activation, Lifecycle, StopPolicy};
use crate::manifest::diagnostic::escape;
use crate::manifest::fields::STOPPED_AFTER;
use crate::manifest::section::Section;
use crate::manifest::spec::Spec;
use crate::manifest::units;

/// The words of a stop policy.
const POLICIES: [(&str, StopPolicy); 2] =
    [("on-release", StopPolicy::OnRelease), ("manual", StopPolicy::Manual)];

/// The fields of the service itself; its table `activation` is read after them.
pub(super) fn read(section: &mut Section<'_, '_, '_>, spec: &mut Spec) {
    spec.lifecycle = section.choice("lifecycle").unwrap_or(spec.lifecycle);
    spec.stop_policy = read_policy(section);
    let has_activation = section.has_table("activation");
    let stops = matches!(spec.stop_policy, Some(StopPolicy::OnRelease | StopPolicy::Idle(_)));
    if stops && spec.lifecycle == Lifecycle::Shared && !has_activation {
        let message = "`stop_policy` is for what is started when it is used";
        let report = section.problems.add(section.place_of("stop_policy"), code::CONFLICTING_KEYS, message);
        report.help(
            "say by what: `activation.on = \"request\"`, or `lifecycle = \"ephemeral\"` for leases alone",
        );
    }
}

fn read_policy(section: &mut Section<'_, '_, '_>) -> Option<StopPolicy> {
    let found = section.find("stop_policy")?;
    let place = found.1.span();
    match found.1.get_ref() {
        DeValue::String(word) => {
            let known = POLICIES.iter().find(|(known, _)| known == word);
            if known.is_none() {
                let message = format!("`{}` is not a value of `stop_policy`", escape(word));
                let report = section.problems.add(place, code::BAD_CHOICE, message);
                report.help(match units::parse_duration(word) {
                    Ok(_) => format!("write it as `stop_policy = {{ idle = \"{}\" }}`", escape(word)),
                    Err(_) => "it takes on-release, manual, or a table like { idle = \"30m\" }".to_owned(),
                });
            }
            known.map(|(_, policy)| *policy)
        }
        DeValue::Table(values) => {
            if let Some((key, _)) = values.iter().find(|(key, _)| key.get_ref() != "idle") {
                let message = format!("there is no field `stop_policy.{}`", escape(key.get_ref()));
                section.problems.add(key.span(), code::UNKNOWN_KEY, message).help("it takes `idle` alone");
                return None;
            }
            let Some(value) = values.get("idle") else {
                section
                    .problems
                    .add(place, code::EMPTY, "`stop_policy` is empty")
                    .help("write { idle = \"30m\" }");
                return None;
            };
            section.duration_of("stop_policy.idle", value, STOPPED_AFTER).map(StopPolicy::Idle)
        }
        _ => {
            section.wrong_type(found);
            None
        }
    }
}

pub(super) fn read_activation(section: &mut Section<'_, '_, '_>, spec: &mut Spec, known: &Known<'_>) {
    let default = Activation::default();
    let sockets = spec.sockets.len();
    let on = section.choice("on").unwrap_or(default.on);
    let idle = section.duration("idle");
    let proxy = section.filled_text("proxy").map(|text| {
        known.check(&text, section.problems);
        if sockets > 1 {
            let message = format!("`activation.proxy` is for one socket, and it has {sockets}");
            section.problems.add(text.place.clone(), code::CONFLICTING_KEYS, message);
        }
        text.text.to_owned()
    });
    let on_is_given = section.find("on").is_some();
    let mut conflict = |key: &str, message: &str, help: &str| {
        let place = section.place_of(key);
        section.problems.add(place, code::CONFLICTING_KEYS, message).help(help);
    };
    if on == ActivateOn::Connection && sockets == 0 {
        let message = "`activation.on = \"connection\"`, and there is no socket to connect to";
        let help = "declare one, like `sockets = { http = \"127.0.0.1:8080\" }`, or write \"request\"";
        conflict("on", message, help);
    }
    let is_ephemeral = spec.lifecycle == Lifecycle::Ephemeral;
    if is_ephemeral && on_is_given {
        let message = "`lifecycle = \"ephemeral\"` says already what it is started by: a lease";
        conflict("on", message, "leave out `activation.on`, or make it `lifecycle = \"shared\"`");
    }
    if let (Some(policy), Some(idle)) = (spec.stop_policy, idle)
        && policy != StopPolicy::Idle(idle)
    {
        let message = "`activation.idle` and `stop_policy` say otherwise when it is stopped";
        conflict(
            "idle",
            message,
            "`activation.idle = \"15m\"` is short for `stop_policy = { idle = \"15m\" }`: keep one",
        );
    }
    // Said in so many words, `always` may be for a while.
    let stops =
        idle.is_some() || matches!(spec.stop_policy, Some(StopPolicy::OnRelease | StopPolicy::Idle(_)));
    if !on_is_given && stops && !is_ephemeral {
        let (key, message) = match idle {
            Some(_) => ("idle", "`activation.idle` is for what is started when it is used"),
            None => ("on", "`stop_policy` is for what is started when it is used"),
        };
        conflict(key, message, "say by what: `on = \"connection\"` or `on = \"request\"`");
    }
    spec.activation = Activation { on, idle, proxy };
}
