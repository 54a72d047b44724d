//! What the host is asked about, and what it reports: claims and what was found of them, events.

use serde::{Deserialize, Serialize};

use super::listen::{NotHeld, SocketKey};
use super::probe::ProbeError;
use super::{Dirty, JobPurpose};
use crate::identity::{Nonce, Pid, ProcessIdentity, ServiceId};
use crate::state::{Containment, ExitStatus, Said, SpawnFailure};
use crate::time::Stamp;

/// A run that the ledger claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// `None`: the intent is open.
    pub process: Option<ProcessIdentity>,
    pub containment: Option<Containment>,
    pub epoch: u64,
}

/// What was found of a claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub service: ServiceId,
    pub nonce: Nonce,
    pub found: Found,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// The leader lives and is ours.
    Alive {
        /// Given where the claim had none: the birth was found.
        born: Option<(ProcessIdentity, Containment)>,
    },
    /// The leader is gone; `others` descendants live.
    Ended {
        born: Option<(ProcessIdentity, Containment)>,
        /// `None`: nobody saw it.
        status: Option<ExitStatus>,
        /// When, as far as it is known.
        at: Option<Stamp>,
        others: bool,
        other_boot: bool,
    },
    /// The leader is dead or about to be, and a living keeper has not yet recorded how: whoever attaches to it
    /// is told, first [`Event::Exited`], then [`Event::Gone`].
    Ending {
        born: Option<(ProcessIdentity, Containment)>,
    },
    /// The intent never came to an execution, and can no longer.
    NeverBorn,
    /// A spawn of it is under way in the keeper.
    InFlight,
    /// Not to be told from a stranger; a code of `Reason` and a sentence.
    Unverifiable {
        detail: String,
    },
    /// Nothing could be opened to look at it, for now.
    OutOfDescriptors {
        detail: String,
    },
    ContainmentLost {
        pid: Option<Pid>,
    },
    KeeperUnresponsive,
}

/// The end of the output of a job that was killed for writing more than is taken.
pub const WROTE_TOO_MUCH: &str = "\n[killed: it wrote more than 1 MiB]\n";

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTrouble {
    /// Its service has cut it off, and lines with it.
    Truncated,
    /// It goes on growing past its size.
    NotRotated,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum JobOutcome {
    Exit {
        status: ExitStatus,
        /// The first 64 KiB of stdout and stderr, in the order written.
        output: String,
    },
    TimedOut,
    NotStarted(SpawnFailure),
    /// It ended with its service, or with the keeper.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Changed(Dirty),
    Spawned {
        service: ServiceId,
        nonce: Nonce,
        process: ProcessIdentity,
        containment: Containment,
    },
    SpawnFailed {
        service: ServiceId,
        nonce: Nonce,
        failure: SpawnFailure,
    },
    /// The leader has ended; `others` of it live.
    Exited {
        nonce: Nonce,
        status: Option<ExitStatus>,
        others: bool,
    },
    /// Nothing is left of it.
    Gone {
        nonce: Nonce,
    },
    /// SIGKILL was sent to all of it, and these live on.
    Unkillable {
        nonce: Nonce,
        pids: Vec<Pid>,
    },
    Probed {
        service: ServiceId,
        nonce: Nonce,
        result: Result<(), ProbeError>,
    },
    JobDone {
        purpose: JobPurpose,
        service: ServiceId,
        of: Nonce,
        outcome: JobOutcome,
    },
    /// The keeper holds a socket that it was asked to hold.
    SocketHeld {
        key: SocketKey,
    },
    /// Somebody has connected to a socket that is watched.
    Connected {
        key: SocketKey,
    },
    /// It was let go of, for nobody could reach it any more.
    SocketLost {
        key: SocketKey,
    },
    SocketNotHeld {
        key: SocketKey,
        why: NotHeld,
    },
    /// All that a run has said of itself by now; `None`: nobody knows, for the keeper does not hold it.
    Said {
        nonce: Nonce,
        said: Option<Box<Said>>,
    },
    /// A process that holds services has ended.
    HolderEnded {
        process: ProcessIdentity,
    },
    /// The log of a service is not what it should be.
    LogTroubled {
        service: ServiceId,
        trouble: LogTrouble,
    },
    /// The keeper is gone, or is back after a silence; what it was asked for and has not answered may or may not
    /// have come about. Everything must be observed anew.
    KeeperLost,
}
