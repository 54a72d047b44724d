//! The exit codes: one table, in the order in which the first that applies wins.
//!
//! `docs/commands.md` repeats it and a test compares. `status NAME…` has codes of its own, those of an init
//! script. Source: DESIGN section 9; sysexits(3) for 64, the LSB for `status`.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

/// Declared in order of precedence: of all that apply, the first is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitCode {
    Usage,
    AnotherReconciler,
    PlanStale,
    Failed,
    ManifestInvalid,
    PolicyRefused,
    NotReady,
    ChangesPending,
    Converged,
}

impl ExitCode {
    /// Every code, in order of precedence.
    pub const ALL: [Self; 9] = [
        Self::Usage,
        Self::AnotherReconciler,
        Self::PlanStale,
        Self::Failed,
        Self::ManifestInvalid,
        Self::PolicyRefused,
        Self::NotReady,
        Self::ChangesPending,
        Self::Converged,
    ];

    pub fn value(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::AnotherReconciler => 6,
            Self::PlanStale => 7,
            Self::Failed => 1,
            Self::ManifestInvalid => 3,
            Self::PolicyRefused => 4,
            Self::NotReady => 5,
            Self::ChangesPending => 2,
            Self::Converged => 0,
        }
    }

    /// Stable, kebab-case: what an error without a code of its own is called in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::AnotherReconciler => "another-reconciler",
            Self::PlanStale => "plan-stale",
            Self::Failed => "failed",
            Self::ManifestInvalid => "manifest-invalid",
            Self::PolicyRefused => "policy-refused",
            Self::NotReady => "not-ready",
            Self::ChangesPending => "changes-pending",
            Self::Converged => "converged",
        }
    }

    /// For `--help` and the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::AnotherReconciler => "another reconciler holds the state",
            Self::PlanStale => "approved plan is stale",
            Self::Failed => "could not do it",
            Self::ManifestInvalid => "a manifest is invalid",
            Self::PolicyRefused => "policy refused something",
            Self::NotReady => "not ready in time or parked as failed",
            Self::ChangesPending => "changes pending (`plan --detailed-exitcode`, held prune)",
            Self::Converged => "converged",
        }
    }
}

impl Serialize for ExitCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.value())
    }
}

/// All the codes that apply to one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitCodes(BTreeSet<ExitCode>);

impl ExitCodes {
    pub fn add(&mut self, code: ExitCode) {
        self.0.insert(code);
    }

    pub fn add_if(&mut self, applies: bool, code: ExitCode) {
        if applies {
            self.add(code);
        }
    }

    /// The first that applies; converged if none does.
    pub fn first(&self) -> ExitCode {
        self.0.first().copied().unwrap_or(ExitCode::Converged)
    }

    /// For JSON: all that apply, in order of precedence, never empty.
    pub fn all(&self) -> Vec<ExitCode> {
        if self.0.is_empty() { vec![ExitCode::Converged] } else { self.0.iter().copied().collect() }
    }
}

impl From<ExitCode> for ExitCodes {
    fn from(code: ExitCode) -> Self {
        Self(BTreeSet::from([code]))
    }
}

/// The codes of `status NAME…`, for scripts that ask like an init script is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusCode {
    Up,
    Down,
    Unknown,
}

impl StatusCode {
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Unknown];

    pub fn value(self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Down => 3,
            Self::Unknown => 4,
        }
    }
}

/// How a command ended, for the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Codes(ExitCodes),
    Status(StatusCode),
    /// As the command of `run` did: its exit code, or 128 and the signal that ended it.
    Command(u8),
}

impl Ended {
    pub fn value(&self) -> u8 {
        match self {
            Self::Codes(codes) => codes.first().value(),
            Self::Status(code) => code.value(),
            Self::Command(code) => *code,
        }
    }
}

impl From<ExitCode> for Ended {
    fn from(code: ExitCode) -> Self {
        Self::Codes(code.into())
    }
}

impl From<ExitCodes> for Ended {
    fn from(codes: ExitCodes) -> Self {
        Self::Codes(codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_is_that_of_the_design() {
        let values: Vec<u8> = ExitCode::ALL.iter().map(|code| code.value()).collect();
        assert_eq!(values, [64, 6, 7, 1, 3, 4, 5, 2, 0]);
        assert!(ExitCode::ALL.is_sorted(), "declared in the order of ALL");
    }

    #[test]
    fn the_first_that_applies_wins_whatever_the_order_of_adding() {
        for (index, winner) in ExitCode::ALL.into_iter().enumerate() {
            let mut codes = ExitCodes::default();
            for code in ExitCode::ALL.into_iter().skip(index).rev() {
                codes.add(code);
            }
            assert_eq!(codes.first(), winner);
        }
    }

    #[test]
    fn json_lists_all_that_apply() {
        let mut codes = ExitCodes::default();
        assert_eq!(serde_json::to_string(&codes.all()).unwrap(), "[0]");
        codes.add(ExitCode::NotReady);
        codes.add(ExitCode::ManifestInvalid);
        codes.add_if(false, ExitCode::Usage);
        assert_eq!(serde_json::to_string(&codes.all()).unwrap(), "[3,5]");
    }

    /// The rows `| 64 | meaning |` below the heading, in their order.
    fn documented(heading: &str) -> Vec<(u8, String)> {
        let page = include_str!("../../docs/commands.md");
        let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the section is there");
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let value = cells.next()?.parse().ok()?;
            Some((value, cells.next()?.trim_end_matches(" |").to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn the_documentation_has_the_same_table_in_the_same_order() {
        let code: Vec<_> = ExitCode::ALL.iter().map(|c| (c.value(), c.meaning().to_owned())).collect();
        assert_eq!(documented("Exit codes"), code);
        let of_status: Vec<u8> = StatusCode::ALL.iter().map(|code| code.value()).collect();
        let documented: Vec<u8> =
            documented("Exit codes of `status NAME…`").into_iter().map(|(v, _)| v).collect();
        assert_eq!(documented, of_status);
    }
}
