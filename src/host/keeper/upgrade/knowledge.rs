//! What one program of a keeper tells the next, in a form that is for ever: a keeper may become any later version.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::host::Claim;
use crate::host::keeper::cell::{Cell, Hold, Hull, Leader};
use crate::host::listen::HeldSocket;
use crate::state::{ExitStatus, Said};

/// What a keeper knows that its successor cannot find out.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Knowledge {
    pub nofile: (u64, u64),
    pub cells: Vec<Known>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<KnownSocket>,
    /// The descriptor of the socket that services say things into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ear: Option<RawFd>,
}

/// A socket with the number of its descriptor, which goes along.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KnownSocket {
    pub socket: HeldSocket,
    pub fd: RawFd,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    pub claim: Claim,
    pub leader: KnownLeader,
    pub hold: KnownHold,
    pub killing: bool,
    #[serde(default, skip_serializing_if = "is_silent")]
    pub said: Box<Said>,
    /// The descriptor of the pipe that it is to be ready by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<RawFd>,
}

fn is_silent(said: &Said) -> bool {
    *said == Said::default()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KnownLeader {
    Alive,
    Watched,
    Ended(Option<ExitStatus>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KnownHold {
    None,
    Child,
    Watched,
    Empty,
    Lost,
}

/// `None`: it is in a state that cannot be handed over.
pub(super) fn known(cell: &Cell) -> Option<Known> {
    let leader = match cell.leader {
        Leader::Alive => KnownLeader::Alive,
        Leader::Watched { died: None, .. } => KnownLeader::Watched,
        Leader::Ended { status, executed: true } => KnownLeader::Ended(status),
        // Of one that was watched and has died, the kernel may tell in a moment how.
        Leader::Watched { died: Some(_), .. }
        | Leader::Unborn { .. }
        | Leader::Ended { executed: false, .. } => return None,
    };
    if cell.job.is_some() {
        return None;
    }
    let hold = match &cell.hull {
        Hull::Group(_) => KnownHold::None,
        Hull::Holder { hold: Hold::Child, .. } => KnownHold::Child,
        Hull::Holder { hold: Hold::Watched(_), .. } => KnownHold::Watched,
        Hull::Holder { hold: Hold::Empty, .. } => KnownHold::Empty,
        Hull::Holder { hold: Hold::Lost, .. } => KnownHold::Lost,
    };
    let claim = Claim {
        service: cell.service.clone(),
        nonce: cell.nonce.clone(),
        process: cell.process.clone(),
        containment: Some(cell.containment()),
        epoch: 0,
    };
    let said = Box::new(cell.said.clone());
    let ready = cell.ready.as_ref().map(AsRawFd::as_raw_fd);
    Some(Known { claim, leader, hold, killing: cell.killing.is_some(), said, ready })
}

pub(super) fn read(mut file: File) -> io::Result<Knowledge> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::listen::{Listen, SocketKey};
    use crate::identity::{BootId, Nonce, Pid, ProcessIdentity, ServiceId};
    use crate::manifest::ListenOn;
    use crate::state::Containment;
    use crate::time::Stamp;

    /// What a keeper of version 0.1.0 hands over; every keeper after it is to read this.
    const OF_VERSION_1: &str = include_str!("../../../../tests/fixtures/state/v1/upgrade.json");

    fn process(pid: i32) -> ProcessIdentity {
        let boot = BootId::new("0d9a1c6e-0000-4000-8000-000000000001");
        ProcessIdentity { pid: Pid::new(pid).unwrap(), start_ticks: 120_651, boot, pid_ns: 4_026_531_836 }
    }

    fn known(n: u64, containment: Containment, leader: KnownLeader, hold: KnownHold) -> Known {
        let claim = Claim {
            service: ServiceId::parse("shop/db").unwrap(),
            nonce: Nonce::from_u64(n),
            process: Some(process(1_000 + n as i32)),
            containment: Some(containment),
            epoch: 0,
        };
        Known { claim, leader, hold, killing: n == 1, said: Box::default(), ready: None }
    }

    #[test]
    fn what_is_handed_over_has_its_form() {
        let group = Containment::Cgroup { path: "/sys/fs/cgroup/reconcile/shop.db".into() };
        let holder = || Containment::Holder { process: process(900), within: None };
        let code = Some(ExitStatus::Code(3));
        let knowledge = Knowledge {
            nofile: (1_024, 1_048_576),
            cells: vec![
                known(1, group, KnownLeader::Alive, KnownHold::None),
                known(2, holder(), KnownLeader::Watched, KnownHold::Child),
                known(3, holder(), KnownLeader::Ended(code), KnownHold::Watched),
                known(4, holder(), KnownLeader::Ended(None), KnownHold::Empty),
                known(5, holder(), KnownLeader::Alive, KnownHold::Lost),
            ],
            sockets: Vec::new(),
            ear: None,
        };
        assert_eq!(serde_json::from_str::<Knowledge>(OF_VERSION_1).unwrap(), knowledge);
        assert_eq!(serde_json::to_string(&knowledge).unwrap(), OF_VERSION_1.trim_end());
    }

    /// What a keeper hands over that holds sockets.
    const WITH_SOCKETS: &str = include_str!("../../../../tests/fixtures/state/v1/upgrade-sockets.json");

    #[test]
    fn sockets_that_are_handed_over_have_their_form() {
        let socket = |name: &str, address, file| HeldSocket {
            key: SocketKey { service: ServiceId::parse("shop/db").unwrap(), name: name.to_owned() },
            listen: Listen { address, mode: 0o660, owner: None },
            file,
        };
        let tcp = socket("http", ListenOn::Tcp("127.0.0.1:8080".parse().unwrap()), None);
        let unix = socket("admin", ListenOn::Unix("/run/admin.sock".into()), Some((65_024, 7)));
        let sockets = vec![KnownSocket { socket: tcp, fd: 9 }, KnownSocket { socket: unix, fd: 12 }];
        let knowledge = Knowledge { nofile: (1_024, 1_048_576), cells: Vec::new(), sockets, ear: None };
        assert_eq!(serde_json::from_str::<Knowledge>(WITH_SOCKETS).unwrap(), knowledge);
        assert_eq!(serde_json::to_string(&knowledge).unwrap(), WITH_SOCKETS.trim_end());
    }

    const WITH_WHAT_WAS_SAID: &str = include_str!("../../../../tests/fixtures/state/v1/upgrade-said.json");

    #[test]
    fn what_was_said_is_handed_over_in_its_form() {
        let group = Containment::Cgroup { path: "/sys/fs/cgroup/reconcile/shop.db".into() };
        let boot = BootId::new("0d9a1c6e-0000-4000-8000-000000000001");
        let at = |awake_ms| Stamp { boot: boot.clone(), boottime_ms: awake_ms, awake_ms, wall_ms: 0 };
        let said = Said {
            ready: Some(at(1)),
            alive: Some(at(2)),
            status: Some("serving".into()),
            ..Said::default()
        };
        let cell = || known(1, group.clone(), KnownLeader::Alive, KnownHold::None);
        let knowledge = Knowledge {
            nofile: (1_024, 1_048_576),
            cells: vec![
                Known { said: Box::new(said), killing: false, ..cell() },
                Known { ready: Some(12), killing: false, ..cell() },
            ],
            sockets: Vec::new(),
            ear: Some(9),
        };
        assert_eq!(serde_json::from_str::<Knowledge>(WITH_WHAT_WAS_SAID).unwrap(), knowledge);
        assert_eq!(serde_json::to_string(&knowledge).unwrap(), WITH_WHAT_WAS_SAID.trim_end());
    }

    /// A newer form adds, and an older program passes over what it does not know.
    #[test]
    fn what_a_newer_keeper_adds_is_passed_over() {
        let newer = OF_VERSION_1.replacen("{\"nofile\"", "{\"mood\":\"good\",\"nofile\"", 1);
        assert_ne!(newer, OF_VERSION_1);
        assert_eq!(serde_json::from_str::<Knowledge>(&newer).unwrap().cells.len(), 5);
    }
}
