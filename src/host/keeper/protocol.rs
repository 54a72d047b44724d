//! What a reconciler and its keeper say to each other: one JSON object a line, both ways.
//!
//! The first request is [`Request::Hello`]; its answer names the version that both understand. Requests are
//! answered in any order, and most of them by what happens later. Values only, no I/O. A keeper outlives the
//! reconciler that started it, so a field keeps its name and meaning, and a new one has a default.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::host::listen::{HeldSocket, SocketKey};
use crate::host::{Claim, SpawnRequest};
use crate::identity::{InstanceId, Nonce, Pid, ProcessIdentity, ServiceId};
use crate::manifest::SignalTo;
use crate::state::{Containment, ExitStatus, FileIdentity, Said, SpawnFailure};

/// The version spoken here.
pub const PROTOCOL: u32 = 1;

/// The oldest version still understood: that of the release before.
pub const OLDEST_PROTOCOL: u32 = 1;

/// The longest line accepted, in bytes: an environment may be a few MiB.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// The version that both sides understand; `None` if there is none.
pub fn common_protocol(theirs: u32) -> Option<u32> {
    common(theirs, OLDEST_PROTOCOL, PROTOCOL)
}

/// Each side names the newest that it speaks: the newer one speaks as the older does, as far back as it can.
fn common(theirs: u32, oldest: u32, newest: u32) -> Option<u32> {
    let common = theirs.min(newest);
    (common >= oldest).then_some(common)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Makes this connection the one that is served, in place of any other.
    Hello {
        protocol: u32,
        instance: InstanceId,
    },
    /// Answered by [`Message::Spawned`] or [`Message::SpawnFailed`].
    Spawn {
        spawn: Box<SpawnRequest>,
    },
    /// Signals the leader, or every member of the run that is in the leader's process group.
    Signal {
        claim: Claim,
        signal: i32,
        to: SignalTo,
    },
    /// SIGKILL to all of the run until [`Message::Gone`].
    Kill {
        claim: Claim,
    },
    /// Takes over a run that another keeper started. Of one that has ended, its end is told (again).
    Attach {
        claim: Claim,
    },
    /// Answered by [`Message::JobDone`]; the job goes by the nonce of its `spawn`. If `of` is that, too, it belongs to no
    /// run.
    Job {
        of: Nonce,
        timeout_ms: u64,
        spawn: Box<SpawnRequest>,
    },
    CancelJob {
        nonce: Nonce,
    },
    /// What a run has said of itself; answered by [`Message::Said`].
    Ask {
        nonce: Nonce,
    },
    /// Drops recorded exits of all runs but these.
    TrimExits {
        keep: Vec<Nonce>,
    },
    /// Becomes this very file as a program; the connection ends, and is to be made anew. Otherwise answered by
    /// [`Message::NotUpgraded`].
    Upgrade {
        exe: FileIdentity,
    },
    /// Keeps a listening socket, whose descriptor comes along with this line; answered by [`Message::Holding`] or
    /// [`Message::NotHolding`]. What was held under this name before is closed.
    Hold {
        socket: HeldSocket,
    },
    /// Closes it; answered by [`Message::Released`] if it was held.
    Release {
        key: SocketKey,
    },
    /// Answered by [`Message::Holding`] with a descriptor, or [`Message::NotHolding`]. May be asked without a hello.
    Lend {
        key: SocketKey,
    },
    /// Answered by [`Message::Cells`]. May be asked without a hello.
    List,
    /// Answered by [`Message::Pong`]. May be asked without a hello.
    Ping {
        id: u64,
    },
}

/// [`Request::Spawn`] and [`Request::Job`] as the keeper reads them when their turn has come: in few pieces, since
/// a fork is never long ago, and each page that is written or freed since then has to be copied.
#[derive(Debug, Deserialize)]
pub struct Spawning {
    pub spawn: Box<Spawn>,
}

/// A birth repeats the intent word for word.
pub type Spawn = SpawnRequest<Box<RawValue>>;

/// Of a request what tells which one it is.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    pub request: &'a str,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    Hello {
        /// The version both understand.
        protocol: u32,
        /// The program's version.
        version: String,
        keeper: ProcessIdentity,
        /// `None`: runs have cgroups. Otherwise they have holders, and this says why.
        holders: Option<String>,
        /// What it holds. `None`: an older program, which can hold none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sockets: Option<Vec<HeldSocket>>,
        /// It hears what services say of themselves; an older program does not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        notify: bool,
        /// It runs jobs beside no run, and gives secrets as files; an older program does not.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        secrets: bool,
    },
    /// The request was not understood or cannot be done; a sentence.
    Refused {
        nonce: Option<Nonce>,
        detail: String,
    },
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
    /// The leader has ended; told again for each attach.
    Exited {
        nonce: Nonce,
        status: Option<ExitStatus>,
        others: bool,
    },
    /// Always follows [`Message::Exited`], in the end.
    Gone {
        nonce: Nonce,
    },
    Unkillable {
        nonce: Nonce,
        pids: Vec<Pid>,
    },
    /// All that a run has said of itself; told when that is news, and when it is asked for. `None`: it is not held.
    Said {
        nonce: Nonce,
        said: Option<Box<Said>>,
    },
    JobDone {
        nonce: Nonce,
        end: JobEnd,
    },
    Holding {
        socket: HeldSocket,
    },
    /// A sentence says why.
    NotHolding {
        key: SocketKey,
        detail: String,
    },
    Released {
        socket: HeldSocket,
    },
    Cells {
        cells: Vec<CellInfo>,
    },
    /// It is as it was; a sentence says why. `busy`: something is under way that cannot be handed over.
    NotUpgraded {
        busy: bool,
        detail: String,
    },
    Pong {
        id: u64,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum JobEnd {
    Exit {
        status: ExitStatus,
        /// The first 64 KiB of stdout and stderr, in the order written.
        output: String,
    },
    TimedOut,
    NotStarted {
        failure: SpawnFailure,
    },
    Cancelled,
}

/// One run or job that the keeper holds, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellInfo {
    pub service: ServiceId,
    pub nonce: Nonce,
    /// `None` until it is born.
    pub process: Option<ProcessIdentity>,
    pub containment: Containment,
    pub state: CellState,
    /// `Some`: it is a job of that run.
    pub job_of: Option<Nonce>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellState {
    /// Forked, not yet executed.
    Spawning,
    Running,
    /// The leader has ended, others of it have not.
    Leftovers,
    Killing,
    /// Its holder is gone: what it held cannot be told from others.
    ContainmentLost,
}

/// One line, ready to be sent.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("every message has string keys and plain values");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_peer_is_spoken_to_in_our_version_and_an_older_one_in_its_own() {
        assert_eq!(common_protocol(PROTOCOL + 5), Some(PROTOCOL));
        assert_eq!(common_protocol(OLDEST_PROTOCOL), Some(OLDEST_PROTOCOL));
        assert_eq!(common_protocol(OLDEST_PROTOCOL - 1), None);
        // As it will be once there are two.
        assert_eq!([6, 5, 4, 3].map(|theirs| common(theirs, 4, 5)), [Some(5), Some(5), Some(4), None]);
    }

    #[test]
    fn the_form_on_the_socket_is_stable() {
        let hello = Request::Hello { protocol: 1, instance: InstanceId::from_u64(1) };
        assert_eq!(
            String::from_utf8(encode(&hello)).unwrap(),
            "{\"request\":\"hello\",\"protocol\":1,\"instance\":\"0000000000000001\"}\n"
        );
        let gone = Message::Gone { nonce: Nonce::from_u64(2) };
        assert_eq!(
            String::from_utf8(encode(&gone)).unwrap(),
            "{\"message\":\"gone\",\"nonce\":\"0000000000000002\"}\n"
        );
    }
}
