//! The judge from outside: compares what lives, and what has ever been born, with what was declared.
//!
//! Knows the workers' own register, `/proc`, the driver's model, and what `status` claims of exits. It takes no
//! word of reconcile's for what runs.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{Declared, Ends, Model};
use crate::register::{Birth, Life};

/// What does not (yet) hold of the world as it is at this moment. Right after a change it may take a while.
pub fn amiss_now(model: &Model, lives: &BTreeMap<String, Life>) -> Vec<String> {
    let declared: BTreeMap<&str, &Declared> =
        model.declared().map(|service| (service.name.as_str(), service)).collect();
    let nothing = Life::default();
    let named = declared.keys().map(|name| (*name).to_owned());
    let mut names: Vec<String> = lives.keys().cloned().chain(named).collect();
    names.sort();
    names.dedup();
    names
        .iter()
        .filter_map(|name| {
            let life = lives.get(name).unwrap_or(&nothing);
            let amiss = match declared.get(name.as_str()) {
                Some(service) => amiss_with(service, life),
                None if life.alive().is_empty() => None,
                None => Some(format!("it is not declared, and these live: {}", list(&life.alive()))),
            };
            amiss.map(|what| format!("{name}: {what}"))
        })
        .collect()
}

fn amiss_with(service: &Declared, life: &Life) -> Option<String> {
    let leaders = life.live_leaders();
    if let Some(other) = leaders.iter().find(|leader| leader.generation != service.generation) {
        let (is, should) = (other.generation, service.generation);
        return Some(format!("generation {is} lives as {}, declared is {should}", other.process.pid));
    }
    let expected = match service.behaviour.ends {
        Ends::Never => leaders.len() == 1,
        Ends::Unclean => leaders.len() <= 1,
        Ends::Clean => {
            leaders.is_empty() && life.leaders().any(|birth| birth.generation == service.generation)
        }
    };
    if !expected {
        return Some(format!("{} leaders live: {}", leaders.len(), list(&leaders)));
    }
    let is_stray = |birth: &Birth| {
        birth.leader.is_some_and(|leader| !leaders.iter().any(|live| live.process.pid == leader))
    };
    let strays: Vec<Birth> = life.alive().into_iter().filter(is_stray).collect();
    (!strays.is_empty()).then(|| format!("descendants of an ended run live: {}", list(&strays)))
}

fn list(births: &[Birth]) -> String {
    let name = |birth: &Birth| match birth.leader {
        None => format!("{} (leader, generation {})", birth.process.pid, birth.generation),
        Some(leader) => format!("{} (descendant of {leader})", birth.process.pid),
    };
    births.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What must never be, at any moment, and stays on record: judged again and again, reported once.
pub fn wrong_for_ever(model: &Model, lives: &BTreeMap<String, Life>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, life) in lives {
        wrong.extend(life.beside.iter().map(|line| format!("{name}: a leader beside others: {line}")));
        let mut births: BTreeMap<u32, u32> = BTreeMap::new();
        for leader in life.leaders() {
            *births.entry(leader.generation).or_default() += 1;
        }
        for (generation, births) in births {
            let ends =
                life.exits.iter().filter(|(of, _, itself)| *of == generation && *itself).count() as u32;
            let allowed = 1 + ends + model.excuses(name, generation);
            if births > allowed {
                wrong.push(format!(
                    "{name}: generation {generation} was started {births} times, with reasons for {allowed}"
                ));
            }
        }
    }
    wrong
}

/// Exits that `status` claims and no worker has made. Signals are ours, the driver's or the reconciler's.
pub fn invented_exits(status: &Value, lives: &BTreeMap<String, Life>) -> Vec<String> {
    let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
    let invented = |service: &Value| {
        let name = service["name"].as_str()?;
        let life = lives.get(name)?;
        let end = &service["last_exit"];
        let known_code = |code: i64| life.exits.iter().any(|(_, known, _)| i64::from(*known) == code);
        let known_signal =
            |signal: i64| [libc::SIGTERM, libc::SIGKILL].iter().any(|it| i64::from(*it) == signal);
        let is_known =
            end["code"].as_i64().is_none_or(known_code) && end["signal"].as_i64().is_none_or(known_signal);
        (!is_known).then(|| format!("{name}: `status` claims an end that nobody made: {end}"))
    };
    services.iter().filter_map(invented).collect()
}

/// Declared services that are left in a phase they may not be in once the world is quiet.
pub fn held(model: &Model, status: &Value) -> Vec<String> {
    let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
    let is_held = |service: &&Value| {
        matches!(service["phase"].as_str(), Some("held" | "failed" | "rejected"))
            && model.declared().any(|declared| service["name"] == declared.name.as_str())
    };
    services
        .iter()
        .filter(is_held)
        .map(|service| format!("{}: {} ({})", service["name"], service["phase"], service["message"]))
        .collect()
}
