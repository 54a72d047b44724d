//! What the command line asks of a reconciler, and what it answers.
//!
//! The same values whether they come over the control socket to a running watcher, or from the command
//! itself that becomes the reconciler for a moment.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::selection::Selector;
use super::status::{PassReport, Status};
use crate::identity::Pid;
use crate::state::{Holder, LeaseId};

/// One request. What it is about is as typed: `web` or `project/web`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// The published status; answered at once.
    Status,
    /// What a pass would do now; changes nothing.
    Plan {
        names: Vec<Selector>,
    },
    /// Make a pass, wait until everything named (or all) is settled, answer with what was done.
    Converge {
        names: Vec<Selector>,
        timeout: Duration,
        allow_prune: bool,
    },
    /// Waits until each is in the asked condition.
    Wait {
        names: Vec<Selector>,
        until: WaitFor,
        timeout: Duration,
    },
    Stop {
        names: Vec<Selector>,
    },
    Start {
        names: Vec<Selector>,
    },
    Restart {
        names: Vec<Selector>,
    },
    Reset {
        names: Vec<Selector>,
    },
    Renew {
        names: Vec<Selector>,
    },
    /// They are used now.
    Touch {
        names: Vec<Selector>,
    },
    /// Starts them or shares what runs, waits until they are ready, and answers with their status.
    Ensure {
        names: Vec<Selector>,
        timeout: Duration,
    },
    /// As `Ensure`, and held from then on by this holder: until that has ended, or for so long unless it is renewed.
    Lease {
        names: Vec<Selector>,
        holder: Holder,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        term: Option<Duration>,
        timeout: Duration,
    },
    /// A lease lasts so long from now on; without a term, as long as before. Answered with the status of its services.
    RenewLease {
        lease: LeaseId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        term: Option<Duration>,
    },
    /// These are held no more by a lease of an owner, or nothing is; waits until what is stopped for that is gone. Of a
    /// process they are those that are waited for where its end was seen already.
    EndLease {
        lease: LeaseId,
        names: Vec<Selector>,
    },
    /// Stop everything (or one project); a watcher then exits, unless only one project is meant.
    Down {
        project: Option<String>,
        purge: bool,
    },
    /// Stop some of a project, or of all; a watcher goes on.
    DownSome {
        names: Vec<Selector>,
        purge: bool,
    },
    /// Remove these although a guard holds them.
    Prune {
        names: Vec<Selector>,
    },
    /// The leader of a held service is this process.
    Adopt {
        name: String,
        pid: Pid,
    },
    /// Drop the claim on `held` services without touching any process.
    Forget {
        name: Selector,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<Selector>,
    },
    /// Claim what a copied state directory names.
    Takeover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    Ready,
    Stopped,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    /// Of `Plan` and `Converge`, and of the commands that act, once what they began is settled.
    Report(Box<PassReport>),
    /// Nothing was done.
    Refused(Refusal),
}

/// The tag of an [`Answer`].
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Status,
    Report,
    Refused,
}

/// By hand: what serde derives for a tag that may stand anywhere first keeps all of the answer as a tree of
/// values. Ours stands first.
impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Answer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Answer, M::Error> {
                if map.next_key::<String>()?.as_deref() != Some("answer") {
                    return Err(M::Error::custom("an answer begins with its kind"));
                }
                let kind = map.next_value()?;
                let rest = MapAccessDeserializer::new(map);
                match kind {
                    Kind::Status => Deserialize::deserialize(rest).map(Answer::Status),
                    Kind::Report => Deserialize::deserialize(rest).map(Answer::Report),
                    Kind::Refused => Deserialize::deserialize(rest).map(Answer::Refused),
                }
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable, kebab-case: `unknown-service`, `declared-stopped`, `failed`, `not-held`, …
    pub code: String,
    /// What and why.
    pub message: String,
    pub help: Option<String>,
}
