//! One question to a keeper, without becoming its client: what it holds, and for a copy of a socket.
//!
//! Blocking and bounded: asked before there is a runtime, where records are lost.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::conn::receive;
use super::protocol::{CellInfo, Message, Request, encode};
use crate::host::StateLayout;
use crate::host::listen::SocketKey;
use crate::host::socket::Directory;

/// A keeper answers within this, or is taken for one that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Its runs and jobs; `None` if nobody listens.
pub fn cells(layout: &StateLayout) -> io::Result<Option<Vec<CellInfo>>> {
    let directory = Directory::open(&layout.dir)?;
    let Some(stream) = directory.connect(layout.keeper_socket(), PATIENCE)? else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    (&stream).write_all(&encode(&Request::List))?;
    let mut line = Vec::new();
    if BufReader::new(&stream).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    match serde_json::from_slice(&line)? {
        Message::Cells { cells } => Ok(Some(cells)),
        other => Err(io::Error::other(format!("the answer of the keeper is not understood: {other:?}"))),
    }
}

/// A copy of a socket that it holds; `None` if it does not.
pub fn lend(layout: &StateLayout, key: &SocketKey) -> io::Result<Option<OwnedFd>> {
    let directory = Directory::open(&layout.dir)?;
    let Some(stream) = directory.connect(layout.keeper_socket(), PATIENCE)? else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    (&stream).write_all(&encode(&Request::Lend { key: key.clone() }))?;
    let (mut chunk, mut descriptors) = ([0; 4096], VecDeque::new());
    // The descriptor comes with the first byte of the answer.
    receive(&stream, &mut chunk, &mut descriptors)?;
    Ok(descriptors.pop_front())
}
