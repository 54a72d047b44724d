//! What a service does once it is started: the script a test writes for it.

use std::time::Duration;

use nix::errno::Errno;

use crate::state::{ExitStatus, FileIdentity, SpawnFailure, SpawnStage};

/// The life of one process. By default it is born after a millisecond, runs for ever, answers probes at
/// once, and ends ten milliseconds after it was signalled.
#[derive(Debug, Clone)]
#[must_use]
pub struct Behaviour {
    pub(super) spawn_delay: Duration,
    pub(super) failure: Option<SpawnFailure>,
    pub(super) exits: Option<(Duration, ExitStatus)>,
    pub(super) leader: OnSignal,
    /// What it ends with when it obeys a signal; `None`: by that signal.
    pub(super) last_words: Option<ExitStatus>,
    pub(super) descendants: Vec<OnSignal>,
    pub(super) on_kill: OnKill,
    pub(super) health: Health,
    pub(super) probe_latency: Duration,
    pub(super) stop_command: JobScript,
    pub(super) becomes: Option<FileIdentity>,
}

/// What a process does with a signal that can be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSignal {
    /// Ends so long after it.
    Obeys(Duration),
    Ignores,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnKill {
    Dies,
    /// Sleeps uninterruptibly in the kernel.
    LivesOn,
}

#[derive(Debug, Clone)]
pub(super) enum Health {
    /// By the age of the leader.
    ByAge {
        healthy_after: Duration,
        unhealthy_at: Option<Duration>,
    },
    Hangs,
    Says(Result<(), String>),
}

/// What a probe gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProbeAnswer {
    Says(Result<(), String>),
    Silence,
}

impl Health {
    pub fn at_age(&self, age: Duration) -> ProbeAnswer {
        match self {
            Self::ByAge { healthy_after, .. } if age < *healthy_after => {
                ProbeAnswer::Says(Err("connection refused".to_owned()))
            }
            Self::ByAge { unhealthy_at: Some(at), .. } if age >= *at => {
                ProbeAnswer::Says(Err("status 503 Service Unavailable".to_owned()))
            }
            Self::ByAge { .. } => ProbeAnswer::Says(Ok(())),
            Self::Hangs => ProbeAnswer::Silence,
            Self::Says(result) => ProbeAnswer::Says(result.clone()),
        }
    }
}

/// The life of a stop command.
#[derive(Debug, Clone)]
#[must_use]
pub struct JobScript {
    pub(super) takes: Duration,
    pub(super) end: JobEnd,
    pub(super) effect: JobEffect,
}

#[derive(Debug, Clone)]
pub(super) enum JobEnd {
    Exit(ExitStatus, String),
    Hangs,
    NotStarted(SpawnFailure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobEffect {
    None,
    /// Its service ends with code 0 when it is done.
    EndsService,
}

impl JobScript {
    pub fn exits(takes: Duration, status: ExitStatus, output: &str) -> Self {
        Self { takes, end: JobEnd::Exit(status, output.to_owned()), effect: JobEffect::None }
    }

    /// Runs until it is killed at its timeout.
    pub fn hangs() -> Self {
        Self { end: JobEnd::Hangs, ..Self::default() }
    }

    pub fn exec_fails(stage: SpawnStage, errno: Errno) -> Self {
        Self { end: JobEnd::NotStarted(failure(stage, errno)), ..Self::default() }
    }

    /// The service has ended with code 0 when this is done.
    pub fn ends_service(mut self) -> Self {
        self.effect = JobEffect::EndsService;
        self
    }
}

impl Default for JobScript {
    fn default() -> Self {
        Self::exits(Duration::from_millis(5), ExitStatus::Code(0), "")
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            spawn_delay: Duration::from_millis(1),
            failure: None,
            exits: None,
            leader: OnSignal::Obeys(Duration::from_millis(10)),
            last_words: None,
            descendants: Vec::new(),
            on_kill: OnKill::Dies,
            health: Health::ByAge { healthy_after: Duration::ZERO, unhealthy_at: None },
            probe_latency: Duration::from_millis(1),
            stop_command: JobScript::default(),
            becomes: None,
        }
    }
}

impl Behaviour {
    /// Ends by itself so long after its birth.
    pub fn exits(mut self, after: Duration, status: ExitStatus) -> Self {
        self.exits = Some((after, status));
        self
    }

    /// Takes so long to end when signalled.
    pub fn obeys_after(mut self, delay: Duration) -> Self {
        self.leader = OnSignal::Obeys(delay);
        self
    }

    /// Catches signals, and ends with this instead of by the signal.
    pub fn obeys_with(mut self, status: ExitStatus) -> Self {
        self.last_words = Some(status);
        self
    }

    pub fn ignores_term(mut self) -> Self {
        self.leader = OnSignal::Ignores;
        self
    }

    /// Has one more descendant, which outlives the leader unless it is signalled or killed.
    pub fn forks_descendant(mut self, on_signal: OnSignal) -> Self {
        self.descendants.push(on_signal);
        self
    }

    /// The leader ends with code 0 at once, and leaves the real service behind.
    pub fn backgrounds(self) -> Self {
        self.exits(Duration::from_millis(5), ExitStatus::Code(0))
            .forks_descendant(OnSignal::Obeys(Duration::from_millis(10)))
    }

    /// Nothing is executed.
    pub fn exec_fails(mut self, stage: SpawnStage, errno: Errno) -> Self {
        self.failure = Some(failure(stage, errno));
        self
    }

    /// The keeper takes so long to answer.
    pub fn spawn_delay(mut self, delay: Duration) -> Self {
        self.spawn_delay = delay;
        self
    }

    /// SIGKILL does not end it either.
    pub fn unkillable(mut self) -> Self {
        self.leader = OnSignal::Ignores;
        self.on_kill = OnKill::LivesOn;
        self
    }

    /// Refuses connections until this age.
    pub fn healthy_after(mut self, age: Duration) -> Self {
        let unhealthy_at = match self.health {
            Health::ByAge { unhealthy_at, .. } => unhealthy_at,
            Health::Hangs | Health::Says(_) => None,
        };
        self.health = Health::ByAge { healthy_after: age, unhealthy_at };
        self
    }

    /// Answers with errors from this age on.
    pub fn unhealthy_at(mut self, age: Duration) -> Self {
        let healthy_after = match self.health {
            Health::ByAge { healthy_after, .. } => healthy_after,
            Health::Hangs | Health::Says(_) => Duration::ZERO,
        };
        self.health = Health::ByAge { healthy_after, unhealthy_at: Some(age) };
        self
    }

    /// Accepts connections and never answers.
    pub fn probe_hangs(mut self) -> Self {
        self.health = Health::Hangs;
        self
    }

    /// Gives this answer to every probe.
    pub fn probe_says(mut self, result: Result<(), String>) -> Self {
        self.health = Health::Says(result);
        self
    }

    /// A probe takes so long.
    pub fn probe_latency(mut self, latency: Duration) -> Self {
        self.probe_latency = latency;
        self
    }

    /// What its stop command does.
    pub fn stop_command(mut self, script: JobScript) -> Self {
        self.stop_command = script;
        self
    }

    /// Executes another file once it is born, as launchers do.
    pub fn becomes(mut self, file: FileIdentity) -> Self {
        self.becomes = Some(file);
        self
    }
}

pub(super) fn failure(stage: SpawnStage, errno: Errno) -> SpawnFailure {
    SpawnFailure {
        stage,
        errno: errno as i32,
        message: format!("{stage:?}: {}", errno.desc()).to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_age_of_the_leader() {
        let script =
            Behaviour::default().healthy_after(Duration::from_secs(2)).unhealthy_at(Duration::from_secs(10));
        let well = |seconds| script.health.at_age(Duration::from_secs(seconds)) == ProbeAnswer::Says(Ok(()));
        assert_eq!([1, 2, 9, 10].map(well), [false, true, true, false]);
    }

    #[test]
    fn what_backgrounds_itself_leaves_a_descendant() {
        let script = Behaviour::default().backgrounds();
        assert_eq!(script.descendants.len(), 1);
        assert_eq!(script.exits.map(|(_, status)| status), Some(ExitStatus::Code(0)));
    }
}
