//! Whether anybody is connected to an address, whoever has accepted: looked at when a service is about to be stopped
//! because nobody uses it.
//!
//! Read from `/proc/net`, which walks every connection, and so not asked for often. What cannot be read counts as
//! used: a service that runs on costs less than one that is stopped under its clients.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::manifest::ListenOn;

/// `TCP_ESTABLISHED` and `SS_CONNECTED` as they stand there.
const TCP_CONNECTED: &str = "01";
const UNIX_CONNECTED: &str = "03";

pub fn anybody_is_connected(addresses: &[ListenOn]) -> bool {
    let mut ports = BTreeSet::new();
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for address in addresses {
        match address {
            ListenOn::Tcp(address) => drop(ports.insert(address.port())),
            ListenOn::Unix(path) => drop(paths.insert(path.clone())),
        }
    }
    let by_tcp = || {
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| match fs::read_to_string(table) {
            Ok(text) => {
                text.lines().skip(1).any(|line| tcp_port(line).is_some_and(|port| ports.contains(&port)))
            }
            // Without IPv6 there is no such file.
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        })
    };
    let by_path = || match fs::read_to_string("/proc/net/unix") {
        Ok(text) => {
            text.lines().skip(1).any(|line| unix_path(line).is_some_and(|path| paths.contains(&path)))
        }
        Err(_) => true,
    };
    (!ports.is_empty() && by_tcp()) || (!paths.is_empty() && by_path())
}

/// The local port of a connection that is open.
fn tcp_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    (state == TCP_CONNECTED).then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok()).flatten()
}

/// The path that the accepting side of an open connection is bound to.
fn unix_path(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(8, ' ').filter(|field| !field.is_empty());
    let state = fields.nth(5)?;
    let path = line.split_once('/').map(|(_, path)| PathBuf::from(format!("/{path}")))?;
    (state == UNIX_CONNECTED).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_connection_is_seen_as_long_as_it_is_open() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let at_tcp = [ListenOn::Tcp(tcp.local_addr().unwrap())];
        let at_unix = [ListenOn::Unix(path.clone())];
        assert!(!anybody_is_connected(&at_tcp) && !anybody_is_connected(&at_unix));
        let open =
            (TcpStream::connect(tcp.local_addr().unwrap()).unwrap(), UnixStream::connect(&path).unwrap());
        let accepted = (tcp.accept().unwrap(), unix.accept().unwrap());
        assert!(anybody_is_connected(&at_tcp) && anybody_is_connected(&at_unix));
        drop((open, accepted));
        assert!(!anybody_is_connected(&at_tcp) && !anybody_is_connected(&at_unix));
        assert!(!anybody_is_connected(&[]));
    }
}
