//! Declared sockets: addresses that stay open while what accepts on them comes and goes.
//!
//! What is declared is part of the spec, as written; `render` makes addresses of it. Who opens and holds them is for
//! `host`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The mode of a socket in the file system where none is given: its owner alone may connect.
pub const DEFAULT_MODE: u32 = 0o600;

/// What a path of a socket may have, in bytes. Source: unix(7), less the NUL.
pub const MAX_PATH_BYTES: usize = 107;

/// What a manifest asks for under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// As written, with templates.
    pub listen: String,
    /// Of a socket in the file system.
    pub mode: u32,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenOn {
    Tcp(SocketAddr),
    /// Absolute once it is rendered.
    Unix(PathBuf),
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl ListenOn {
    /// Who connects to `target` reaches this, also where it takes connections on every address.
    pub fn is_reached_at(&self, target: &Self) -> bool {
        match (self, target) {
            (Self::Tcp(own), Self::Tcp(target)) => {
                own.port() == target.port() && (own.ip() == target.ip() || own.ip().is_unspecified())
            }
            (own, target) => own == target,
        }
    }

    /// True if nobody can listen on both: an address of all interfaces takes each of them along.
    pub fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a), Self::Tcp(b)) => {
                let takes_all = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() == b.port() && (a.ip() == b.ip() || takes_all)
            }
            (a, b) => a == b,
        }
    }

    /// Where a service listens itself: also a port alone, of this machine.
    pub fn parse_target(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into())),
            Ok(_) | Err(_) => Self::parse(text),
        }
    }

    /// Of a text whose templates are filled in: what has a slash is a path. `Err` is a lower-case fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            if text.ends_with('/') || text.contains('\0') {
                return Err("a path of a socket ends with its name".to_owned());
            }
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            "an address is an IP address with a port, like `127.0.0.1:8080` or `[::1]:8080`, or a path with a slash"
                .to_owned()
        })?;
        if address.port() == 0 {
            return Err("port 0 is any port, and nobody would know which".to_owned());
        }
        Ok(Self::Tcp(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_number_with_a_port_or_a_path() {
        let tcp = |text: &str| Ok(ListenOn::Tcp(text.parse().unwrap()));
        assert_eq!(ListenOn::parse("127.0.0.1:80"), tcp("127.0.0.1:80"));
        assert_eq!(ListenOn::parse("[::1]:80"), tcp("[::1]:80"));
        for path in ["/run/web.sock", "./web.sock", "run/web.sock", "~/web.sock"] {
            assert_eq!(ListenOn::parse(path), Ok(ListenOn::Unix(path.into())));
        }
        for bad in ["", "80", ":80", "localhost:80", "127.0.0.1", "127.0.0.1:0", "*:80", "web.sock", "/run/"]
        {
            assert!(ListenOn::parse(bad).is_err(), "{bad}");
        }
    }
}
