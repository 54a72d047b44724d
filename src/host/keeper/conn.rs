//! A connection with its buffers: reads and writes what it can, and never waits for its other side.
//!
//! Descriptors may come along with what is read.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::pipe::take_lines;
use super::protocol::{MAX_LINE_BYTES, Message, encode};

/// A client that reads so little that this much waits for it is taken for dead.
const MAX_WAITING_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub struct Conn {
    pub stream: UnixStream,
    /// The pid of the other side; 0 if it is in a pid namespace that we do not see.
    pub peer: i32,
    pub since: Instant,
    input: Vec<u8>,
    /// That came along, and nobody has asked for yet.
    descriptors: VecDeque<OwnedFd>,
    output: Vec<u8>,
    /// How much of `output` is already sent.
    sent: usize,
    dead: bool,
}

impl Conn {
    pub fn new(stream: UnixStream, peer: i32, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            peer,
            since: now,
            input: Vec::new(),
            descriptors: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            dead: false,
        })
    }

    /// Its other side is gone, or does not behave.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    pub fn wants_to_write(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Reads what is there and returns the lines that are complete.
    pub fn read(&mut self) -> Vec<Vec<u8>> {
        self.dead |= drain_socket(&self.stream, &mut self.input, &mut self.descriptors);
        let lines = take_lines(&mut self.input);
        if self.input.len() > MAX_LINE_BYTES {
            self.dead = true;
        }
        lines
    }

    /// The descriptor that came along with the line that was just read.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Sends a message with a descriptor at once. Of somebody for whom something waits, or whose socket is full, the
    /// connection ends: who asks for a descriptor asks for nothing else.
    pub fn send_with(&mut self, message: &Message, descriptor: BorrowedFd<'_>) {
        let line = encode(message);
        self.dead |= self.wants_to_write()
            || !matches!(send_descriptor(&self.stream, &line, descriptor), Ok(sent) if sent == line.len());
    }

    /// Queues a message; it is sent by [`Self::flush`].
    pub fn send(&mut self, message: &Message) {
        self.output.extend_from_slice(&encode(message));
        if self.output.len() - self.sent > MAX_WAITING_BYTES {
            self.dead = true;
        }
    }

    /// Writes what the other side takes.
    pub fn flush(&mut self) {
        while self.wants_to_write() && !self.dead {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if is_transient(&error) => break,
                Err(_) => self.dead = true,
            }
        }
        if !self.wants_to_write() {
            // Room and all: a thousand starts need it for a moment, and a keeper lives for months.
            self.output = Vec::new();
            self.sent = 0;
        }
    }
}

/// The first bytes of `line`, and the descriptor with them; how many that were.
pub fn send_descriptor(to: impl AsFd, line: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    along.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(to, &[IoSlice::new(line)], &mut along, flags)?)
}

/// What is read in one turn; a writer that is never done must not keep everybody else waiting.
const DRAIN_BYTES: usize = 256 << 10;

/// Read at once. On the stack, which is there already: room on the heap costs a fault for each page after a fork.
const CHUNK_BYTES: usize = 4 << 10;

/// What is there to be read, up to 256 KiB; true once the other side is closed.
fn drain_socket(from: &UnixStream, into: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> bool {
    let mut chunk = [0; CHUNK_BYTES];
    let mut drained = 0;
    while drained < DRAIN_BYTES {
        match receive(from, &mut chunk, descriptors) {
            Ok(0) => return true,
            Ok(read) => {
                into.extend_from_slice(&chunk[..read]);
                drained += read;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// One read, with the descriptors that come along.
pub fn receive(from: impl AsFd, chunk: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(from, &mut [IoSliceMut::new(chunk)], &mut along, RecvFlags::CMSG_CLOEXEC)?;
    for message in along.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(read.bytes)
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let (mut client, keeper) = UnixStream::pair().unwrap();
        let mut conn = Conn::new(keeper, 0, Instant::now()).unwrap();
        client.write_all(b"{\"a\"").unwrap();
        assert!(conn.read().is_empty());
        client.write_all(b":1}\n\n{\"b\":2}\n{\"c").unwrap();
        assert_eq!(conn.read(), [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        client.write_all(b"\":3}\n").unwrap();
        assert_eq!(conn.read(), [b"{\"c\":3}".to_vec()]);
        drop(client);
        assert!(conn.read().is_empty());
        assert!(conn.is_dead());
    }

    #[test]
    fn a_line_without_end_is_read_up_to_its_bound_and_ends_the_connection() {
        let (mut client, keeper) = UnixStream::pair().unwrap();
        let mut conn = Conn::new(keeper, 0, Instant::now()).unwrap();
        let writer = std::thread::spawn(move || client.write_all(&vec![b'x'; 4 * MAX_LINE_BYTES]));
        while !conn.is_dead() {
            assert!(conn.read().is_empty());
        }
        // One read fills the room that there is, and a buffer that grows doubles it.
        assert!(conn.input.len() < 3 * MAX_LINE_BYTES);
        drop(conn);
        writer.join().unwrap().expect_err("nobody reads the rest");
    }

    #[test]
    fn a_client_that_does_not_read_never_blocks_us() {
        let (client, keeper) = UnixStream::pair().unwrap();
        let mut conn = Conn::new(keeper, 0, Instant::now()).unwrap();
        for id in 0..20_000 {
            conn.send(&Message::Pong { id });
            conn.flush();
        }
        assert!(conn.wants_to_write());
        assert!(!conn.is_dead());
        drop(client);
        conn.flush();
        assert!(conn.is_dead());
    }
}
