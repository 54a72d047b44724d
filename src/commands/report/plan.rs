//! Steps as text: what a pass would do, what was done, and what is not well afterwards.
//!
//! Each line reads aloud: `restart  web  command changed`. The sign in front is that of a diff.

use std::collections::BTreeMap;

use super::escape::visible;
use super::style::{
    BAD, CHANGE, Cell, FAINT, GOOD, HELD, PLAIN, STRONG, columns, of_action, of_phase, paint, word,
};
use super::units::count;
use crate::plan::{Action, Phase};
use crate::reconciler::status::{Apart, PassReport, ServiceStatus, StepReport};

/// More services than this are counted.
const MOST_NAMED: usize = 5;

/// Said only of what it is true of; else what is so instead.
fn nothing_to_do(report: &PassReport) -> String {
    if !report.apart.is_empty() {
        let mut named: Vec<String> = report.apart.iter().take(MOST_NAMED).map(how_it_is).collect();
        let more = report.apart.len().saturating_sub(MOST_NAMED);
        named.extend((more > 0).then(|| format!("and {}", count(more, "other service"))));
        return format!("nothing to do, but not all is as declared: {}\n", named.join(", "));
    }
    let what = if report.manifests.iter().all(|file| file.ok) { "declared" } else { "accepted" };
    format!("nothing to do: what runs is what is {what}\n")
}

fn how_it_is(apart: &Apart) -> String {
    match apart.phase {
        Phase::Running | Phase::Ready => format!("{} runs as accepted before", apart.service),
        phase => format!("{} is {}", apart.service, word(phase)),
    }
}

/// Every step but the adoptions, which change nothing and are of every service each time; JSON has them.
fn worth_telling(report: &PassReport) -> Vec<&StepReport> {
    report.steps.iter().filter(|step| step.action != Action::Adopt).collect()
}

/// What a pass would do, and what follows from it, wave by wave.
pub fn plan(report: &PassReport) -> String {
    let steps = worth_telling(report);
    if steps.is_empty() {
        return nothing_to_do(report);
    }
    let last = steps.iter().filter_map(|step| step.wave).max().unwrap_or(1);
    let with_wave = |step: &&StepReport| {
        let mut row = row(step);
        if last > 1 {
            row.insert(0, Cell::new(step.wave.unwrap_or(1).to_string()).style(FAINT));
        }
        row
    };
    let rows: Vec<_> = steps.iter().map(with_wave).collect();
    let waves = if last > 1 { format!(", in {}", count(last as usize, "wave")) } else { String::new() };
    format!("{}\n{}{waves}\n", columns(&rows), summary(&steps))
}

/// What a command wants of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    AsDeclared,
    Down,
}

/// What was done, with the outcome of each step.
pub fn steps_done(report: &PassReport, aim: Aim) -> String {
    let steps = worth_telling(report);
    if steps.is_empty() {
        return match (report.converged, aim) {
            (Some(false), _) => String::new(),
            (Some(true) | None, Aim::AsDeclared) => nothing_to_do(report),
            (Some(true) | None, Aim::Down) => "nothing to do: nothing of it runs\n".to_owned(),
        };
    }
    let with_outcome = |step: &&StepReport| {
        let mut row = row(step);
        let passive = matches!(step.action, Action::Hold | Action::Reject);
        let outcome = step.outcome.as_deref().unwrap_or(if passive { "" } else { "not carried out" });
        row.push(Cell::new(visible(outcome)).style(of_outcome(outcome)));
        row
    };
    let rows: Vec<_> = steps.iter().map(with_outcome).collect();
    columns(&rows)
}

/// The services that are not well, each with its newest log lines (`tails`: name to lines, already safe).
pub fn unwell(services: &[ServiceStatus], tails: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = String::new();
    for service in services {
        let phase = paint(of_phase(service.phase), &word(service.phase));
        let name = paint(STRONG, &service.name);
        text.push_str(&format!("\n{name} is {phase}: {}\n", visible(&service.message)));
        let error = service.health.as_ref().and_then(|health| health.last_error.as_ref());
        if let Some(error) = error.filter(|error| !service.message.contains(*error)) {
            text.push_str(&format!("  its last check: {}\n", visible(error)));
        }
        if service.phase == Phase::Rejected {
            // What has not run has nothing to say.
            continue;
        }
        let log = visible(&service.log.to_string_lossy()).into_owned();
        match tails.get(&service.name).filter(|lines| !lines.is_empty()) {
            None => text.push_str(&paint(FAINT, &format!("  it has written nothing to {log}\n"))),
            Some(lines) => {
                text.push_str(&paint(FAINT, &format!("  the end of {log}:\n")));
                lines.iter().for_each(|line| text.push_str(&format!("  | {line}\n")));
            }
        }
    }
    text
}

/// What each step was decided on: for the ways out of `held`, which somebody has to judge.
pub fn evidence(report: &PassReport) -> String {
    let mut text = String::new();
    for step in &report.steps {
        text.push_str(&format!("\nevidence for {} {}:\n", word(step.action), step.service));
        let facts = step.evidence.as_object().into_iter().flatten();
        let rows = facts.map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            vec![Cell::new(format!("  {}", visible(key))).style(FAINT), Cell::new(visible(&value))]
        });
        text.push_str(&columns(&rows.collect::<Vec<_>>()));
    }
    text
}

fn row(step: &StepReport) -> Vec<Cell> {
    let style = of_action(step.action);
    let message = match step.after.as_slice() {
        [] => visible(&step.message).into_owned(),
        after => format!("{}; after {}", visible(&step.message), after.join(", ")),
    };
    vec![
        Cell::new(sign(step.action)).style(style),
        Cell::new(word(step.action)).style(style),
        Cell::new(step.service.clone()).style(STRONG),
        Cell::new(message),
    ]
}

fn sign(action: Action) -> &'static str {
    match action {
        Action::Start => "+",
        Action::Stop | Action::Kill | Action::Forget => "-",
        Action::Restart | Action::Update | Action::Signal | Action::Reload => "~",
        Action::Adopt => "=",
        Action::Hold | Action::Reject => "!",
    }
}

fn of_outcome(outcome: &str) -> anstyle::Style {
    match outcome {
        "done" => GOOD,
        "failed" => BAD,
        "begun" | "pending" => CHANGE,
        "held" => HELD,
        _ => PLAIN,
    }
}

/// `2 to start, 1 to restart; 1 held`.
fn summary(steps: &[&StepReport]) -> String {
    const ORDER: [(Action, &str); 10] = [
        (Action::Start, "to start"),
        (Action::Restart, "to restart"),
        (Action::Update, "to update"),
        (Action::Reload, "to reload"),
        (Action::Signal, "to signal"),
        (Action::Stop, "to stop"),
        (Action::Kill, "to kill"),
        (Action::Forget, "to forget"),
        (Action::Hold, "held"),
        (Action::Reject, "rejected"),
    ];
    let counts = ORDER.iter().filter_map(|(action, what)| {
        let number = steps.iter().filter(|step| step.action == *action).count();
        (number > 0).then(|| format!("{number} {what}"))
    });
    format!("{}: {}", count(steps.len(), "step"), counts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::reconciler::status::HealthStatus;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_plan_reads_aloud() {
        insta::assert_snapshot!(plain(&plan(&samples::plan())));
    }

    #[test]
    fn no_step_is_said_in_words() {
        let empty = PassReport { steps: vec![], changes: false, ..samples::plan() };
        assert_eq!(plan(&empty), "nothing to do: what runs is what is declared\n");
        let refused = PassReport { manifests: samples::status().manifests, ..empty.clone() };
        assert_eq!(plan(&refused), "nothing to do: what runs is what is accepted\n");
        let done = |report: &PassReport, converged| {
            steps_done(&PassReport { converged: Some(converged), ..report.clone() }, Aim::AsDeclared)
        };
        assert_eq!((done(&empty, true), done(&empty, false)), (plan(&empty), String::new()));
        assert_eq!(steps_done(&empty, Aim::Down), "nothing to do: nothing of it runs\n");
    }

    #[test]
    fn what_is_not_as_declared_is_never_called_so() {
        let phases = [Phase::Failed, Phase::Stopped, Phase::Held, Phase::Rejected, Phase::Running];
        let apart = |(index, phase): (usize, &Phase)| Apart { service: format!("s{index}"), phase: *phase };
        let mut report = PassReport { steps: vec![], changes: false, ..samples::plan() };
        report.apart = phases.iter().enumerate().map(apart).collect();
        assert_eq!(
            plan(&report),
            "nothing to do, but not all is as declared: s0 is failed, s1 is stopped, s2 is held, s3 is rejected, \
             s4 runs as accepted before\n"
        );
        report.apart.extend(phases[..2].iter().enumerate().map(apart));
        assert!(
            plan(&report).ends_with("s4 runs as accepted before, and 2 other services\n"),
            "{}",
            plan(&report)
        );
    }

    #[test]
    fn what_was_done_names_the_outcome_of_each_step() {
        insta::assert_snapshot!(plain(&steps_done(&samples::convergence(), Aim::AsDeclared)));
    }

    #[test]
    fn what_is_not_well_comes_with_its_last_words() {
        let tails = BTreeMap::from([("shop/db".to_owned(), vec!["bind: address in use".to_owned()])]);
        let silent = samples::service("old", Phase::Failed, "8 failures in a row");
        insta::assert_snapshot!(plain(&unwell(&[samples::db(), silent], &tails)));
    }

    #[test]
    fn why_a_check_fails_is_told_once() {
        let mut web = samples::service("web", Phase::Starting, "started, not yet ready");
        let error = Some("connection refused\u{7}".to_owned());
        web.health =
            Some(HealthStatus { ready: false, last_probe_at: None, last_error: error, status: None });
        let text = plain(&unwell(&[web.clone()], &BTreeMap::new()));
        assert!(text.contains("\n  its last check: connection refused\\x07\n"), "{text}");
        web.message = "not ready within 1s: connection refused\u{7}".into();
        let text = plain(&unwell(&[web], &BTreeMap::new()));
        assert!(!text.contains("its last check"), "{text}");
    }

    #[test]
    fn evidence_is_shown_fact_by_fact() {
        let mut report = samples::plan();
        report.steps.retain(|step| step.service == "web");
        assert_eq!(
            plain(&evidence(&report)),
            "\nevidence for restart web:\n  code    spec-changed\n  fields  [\"command\",\"env\"]\n  pid     4711\n"
        );
    }

    #[test]
    fn a_message_cannot_write_a_line_of_its_own() {
        let mut report = samples::plan();
        report.steps.truncate(1);
        report.steps[0].message = "x\n+ start  root  \u{1b}[2J".into();
        let text = plain(&plan(&report));
        assert_eq!(text.lines().filter(|line| line.contains("start")).count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
