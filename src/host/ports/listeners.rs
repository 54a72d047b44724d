//! Every TCP socket of our network namespace that listens, over IPv4 and IPv6.
//!
//! Asked of the kernel by sock_diag(7), which walks the listening sockets alone; where that is not to be had, read
//! from `/proc/net/tcp` and `tcp6`, which walk every connection. Where neither is, nobody is seen to listen, and the
//! bind of the service itself tells.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// One listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    pub inode: u64,
    pub uid: u32,
}

/// By port.
pub fn listeners() -> BTreeMap<u16, Vec<Listener>> {
    let mut found = BTreeMap::new();
    let (by_diag, by_proc): (fn(Family, &mut Found) -> io::Result<()>, _) = (ask, read);
    for family in [Family::V4, Family::V6] {
        if by_diag(family, &mut found).is_err() {
            // Without IPv6 there is no such file, and nobody who listens.
            let _ = by_proc(family, &mut found);
        }
    }
    found
}

type Found = BTreeMap<u16, Vec<Listener>>;

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

fn add(found: &mut Found, port: u16, listener: Listener) {
    let listeners = found.entry(port).or_default();
    if !listeners.contains(&listener) {
        listeners.push(listener);
    }
}

// linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_LISTEN: u8 = 10;
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const ANSWER_BYTES: usize = HEADER_BYTES + 72;

fn ask(family: Family, found: &mut Found) -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    sendto(netlink.as_raw_fd(), &request(family), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take_in(&buffer[..length], found)? {
            return Ok(());
        }
    }
}

/// A header, and what is asked for: TCP sockets of the family that listen.
fn request(family: Family) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend((REQUEST_BYTES as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    bytes.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    bytes.resize(REQUEST_BYTES, 0);
    bytes
}

/// Says whether that was all.
fn take_in(mut bytes: &[u8], found: &mut Found) -> io::Result<bool> {
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "an answer of sock_diag is garbled");
    while bytes.len() >= HEADER_BYTES {
        let length = u32::from_ne_bytes(part(bytes, 0)) as usize;
        let kind = u16::from_ne_bytes(part(bytes, 4));
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = bytes
                    .get(HEADER_BYTES..HEADER_BYTES + 4)
                    .map(|_| i32::from_ne_bytes(part(bytes, HEADER_BYTES)));
                return Err(io::Error::from_raw_os_error(-code.ok_or_else(garbled)?));
            }
            _ => {}
        }
        if length < HEADER_BYTES || length > bytes.len() {
            return Err(garbled());
        }
        if kind == SOCK_DIAG_BY_FAMILY && length >= ANSWER_BYTES {
            // inet_diag_msg: the port after four bytes, then addresses; user and inode are the last two.
            let port = u16::from_be_bytes(part(bytes, HEADER_BYTES + 4));
            let uid = u32::from_ne_bytes(part(bytes, HEADER_BYTES + 64));
            let inode = u32::from_ne_bytes(part(bytes, HEADER_BYTES + 68));
            add(found, port, Listener { inode: inode.into(), uid });
        }
        let aligned = length.next_multiple_of(4).min(bytes.len());
        bytes = &bytes[aligned..];
    }
    Ok(false)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length was looked at")
}

fn read(family: Family, found: &mut Found) -> io::Result<()> {
    let path = match family {
        Family::V4 => "/proc/net/tcp",
        Family::V6 => "/proc/net/tcp6",
    };
    let text = fs::read_to_string(path)?;
    for (port, listener) in text.lines().filter_map(parse) {
        add(found, port, listener);
    }
    Ok(())
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode`, numbers in hexadecimal up to there.
fn parse(line: &str) -> Option<(u16, Listener)> {
    let mut words = line.split_ascii_whitespace();
    let port = u16::from_str_radix(words.nth(1)?.rsplit_once(':')?.1, 16).ok()?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    (state == TCP_LISTEN).then_some((port, Listener { inode, uid }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt;

    fn inode_of(listener: &TcpListener) -> u64 {
        fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn whoever_listens_is_seen_by_either_way() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(address) else {
                eprintln!("skipped: no {address} here");
                continue;
            };
            let port = socket.local_addr().unwrap().port();
            let has = |found: &Found| {
                found.get(&port).is_some_and(|all| all.iter().any(|one| one.inode == inode_of(&socket)))
            };
            assert!(has(&listeners()), "{address}");
            let mut by_proc = Found::new();
            for family in [Family::V4, Family::V6] {
                let _ = read(family, &mut by_proc);
            }
            assert!(has(&by_proc), "{address}, by /proc");
            drop(socket);
        }
    }

    #[test]
    fn lines_of_proc_are_read_and_connections_passed_over() {
        let listening = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  33        0 4711 1 0 100";
        assert_eq!(parse(listening), Some((8080, Listener { inode: 4711, uid: 33 })));
        assert_eq!(parse(&listening.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_answer_that_is_no_answer_is_an_error_and_no_panic() {
        let mut found = Found::new();
        for bytes in [vec![0_u8; 40], vec![255; 40], [vec![200, 0, 0, 0, 20, 0], vec![0; 50]].concat()] {
            assert!(take_in(&bytes, &mut found).is_err(), "{bytes:?}");
        }
        assert!(!take_in(&[1, 2, 3], &mut found).unwrap());
        assert_eq!(found, Found::new());
    }
}
