//! What comes to the keeper, and from it: any line is a message or an error, a message comes back as it was said,
//! lines are whole however they arrive, and no claim leads to a process that is not proved to be the claimed one.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Instant;

use reconcile::host::Claim;
use reconcile::host::cgroup::Group;
use reconcile::host::holder::Report;
use reconcile::host::keeper::conn::Conn;
use reconcile::host::keeper::protocol::{MAX_LINE_BYTES, Message, Request, encode};
use reconcile::host::proc::Here;
use reconcile::identity::{BootId, ProcessIdentity};
use reconcile::state::{Containment, FileIdentity};

use super::{Choices, assert_comes_back, comes_back};

pub fn check(data: &[u8]) {
    let mut choices = Choices::of(data);
    for line in data.split(|&byte| byte == b'\n') {
        if let Some(request) = comes_back::<Request>(line) {
            check_request(request, &mut choices);
        }
        if let Some(message) = comes_back::<Message>(line) {
            assert!(encode(&message).len() <= MAX_LINE_BYTES);
        }
        comes_back::<Report>(line);
    }
    check_lines(data, &mut choices);
}

fn check_request(request: Request, choices: &mut Choices) {
    match request {
        Request::Signal { claim, .. } | Request::Kill { claim } | Request::Attach { claim } => {
            check_claim(&claim, choices);
        }
        Request::Spawn { mut spawn } => {
            assert!(!spawn.service.file_stem().contains('/'), "it becomes the name of a file");
            // A project may lie in a directory of any name.
            spawn.cwd = any_path(choices);
            spawn.exec.found = Some(any_path(choices));
            assert_comes_back(&Request::Spawn { spawn });
        }
        Request::Upgrade { exe } => {
            assert_comes_back(&Request::Upgrade { exe: FileIdentity { path: any_path(choices), ..exe } });
        }
        Request::Hello { .. }
        | Request::Job { .. }
        | Request::CancelJob { .. }
        | Request::Ask { .. }
        | Request::TrimExits { .. }
        | Request::Hold { .. }
        | Request::Release { .. }
        | Request::Lend { .. }
        | Request::List
        | Request::Ping { .. } => {}
    }
}

fn any_path(choices: &mut Choices) -> PathBuf {
    let length = choices.below(8);
    let bytes = (0..length).map(|_| choices.below(256) as u8);
    OsString::from_vec(b"/srv/".iter().copied().chain(bytes).collect()).into()
}

static HERE: LazyLock<Here> = LazyLock::new(|| Here::read().expect("/proc can be read"));

/// A claim names a process that may be a target, and only that very process is ever opened for it.
fn check_claim(claim: &Claim, choices: &mut Choices) {
    let held_by = match &claim.containment {
        Some(Containment::Holder { process, .. }) => Some(process),
        Some(Containment::Cgroup { path }) => {
            let is_named = path.to_str().is_some_and(|path| path.ends_with(claim.nonce.as_str()));
            assert!(is_named || Group::recall(path, &claim.nonce).is_err(), "{claim:?}");
            None
        }
        None => None,
    };
    for process in claim.process.iter().chain(held_by) {
        assert!(process.pid.get() > 1, "{claim:?}");
        // Init, all of our own group, everybody.
        let mut everybody = serde_json::to_value(process).expect("an identity can be written");
        everybody["pid"] = [1, 0, -1, i32::MIN][choices.below(4)].into();
        assert!(serde_json::from_value::<ProcessIdentity>(everybody).is_err());
        check_pinned(process);
        check_pinned(&one_off(process, choices));
    }
}

fn check_pinned(claimed: &ProcessIdentity) {
    if let Ok(pinned) = HERE.pin(claimed) {
        let there = HERE.identity(pinned.pid()).expect("what was opened is there");
        assert_eq!(there, *claimed, "a stranger would be signalled");
    }
}

/// This process, but for one fact taken from the claim.
fn one_off(claimed: &ProcessIdentity, choices: &mut Choices) -> ProcessIdentity {
    let own = HERE.identity(std::process::id() as i32).expect("we are here");
    assert!(HERE.pin(&own).is_ok(), "what is proved is found");
    match choices.below(4) {
        0 => ProcessIdentity { pid: claimed.pid, ..own },
        1 => ProcessIdentity { start_ticks: claimed.start_ticks, ..own },
        2 => ProcessIdentity { boot: BootId::new(claimed.boot.as_str()), ..own },
        _ => ProcessIdentity { pid_ns: claimed.pid_ns, ..own },
    }
}

/// The lines of a stream are the same in whatever pieces it arrives.
fn check_lines(data: &[u8], choices: &mut Choices) {
    let (mut client, keeper) = UnixStream::pair().expect("sockets can be made");
    let mut conn = Conn::new(keeper, 0, Instant::now()).expect("a socket can be made not to block");
    let mut lines = Vec::new();
    let mut rest = data;
    let pieces = choices.below(4) + 1;
    for piece in (1..=pieces).rev() {
        let length = if piece == 1 { rest.len() } else { choices.below(rest.len() + 1) };
        let (now, later) = rest.split_at(length);
        client.write_all(now).expect("the socket takes a small piece");
        lines.extend(conn.read());
        rest = later;
    }
    let whole = data.iter().rposition(|&byte| byte == b'\n').map_or(&[][..], |end| &data[..end]);
    let expected = whole.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    assert!(lines.iter().map(Vec::as_slice).eq(expected), "{lines:?}");
    assert!(!conn.is_dead());
    drop(client);
    assert_eq!(conn.read(), Vec::<Vec<u8>>::new(), "what was not finished is not a line");
    assert!(conn.is_dead());
}
