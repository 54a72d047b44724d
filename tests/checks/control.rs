//! The control socket: any line is a request or an error that says so, whatever is said is said in one line and read
//! back as the same, and a line is whole or too long, however it arrives.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use reconcile::api::framing::{Line, read_line};
use reconcile::api::protocol::{
    Body, Envelope, Hello, MAX_REQUEST_BYTES, NEWEST, OLDEST, Request, Response, parse_request,
};
use tokio::io::{AsyncRead, BufReader, ReadBuf};

use super::{Choices, assert_comes_back, comes_back};

/// Words of an error: a request may be quoted in it once, its characters escaped.
const MAX_ERROR_BYTES: usize = 8 * MAX_REQUEST_BYTES;

pub fn check(data: &[u8]) {
    for line in data.split(|&byte| byte == b'\n') {
        check_request(line);
        comes_back::<Response>(line);
        comes_back::<Hello>(line);
    }
    check_framing(data, &mut Choices::of(data));
}

fn check_request(line: &[u8]) {
    match parse_request(line) {
        Ok(request) => {
            assert!((OLDEST..=NEWEST).contains(&request.protocol), "{request:?}");
            assert_comes_back::<Request>(&request);
        }
        Err((id, error)) => {
            let envelope = serde_json::from_slice::<Envelope>(line).ok();
            assert_eq!(id, envelope.as_ref().map(|envelope| envelope.id), "an answer finds its request");
            let is_other = envelope.is_some_and(|envelope| !(OLDEST..=NEWEST).contains(&envelope.protocol));
            let code = if is_other { "unsupported-protocol" } else { "bad-request" };
            assert_eq!(error.code, code, "{error:?}");
            let answer = Response { id, body: Body::Error(error) };
            assert_comes_back(&answer);
            let bytes = serde_json::to_vec(&answer).expect("an error can be written").len();
            assert!(bytes <= MAX_ERROR_BYTES, "{bytes} bytes of error");
        }
    }
}

/// A stream in pieces, with nothing there in between.
struct Dribble<'d> {
    rest: &'d [u8],
    choices: Choices,
}

impl AsyncRead for Dribble<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.choices.below(3) == 0 {
            return Poll::Pending;
        }
        let most = self.rest.len().min(into.remaining());
        let length = if most == 0 { 0 } else { self.choices.below(most) + 1 };
        let (now, later) = self.rest.split_at(length);
        into.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// Runs to its end what is ready sooner or later.
fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

fn check_framing(data: &[u8], choices: &mut Choices) {
    // As long as one of the lines, or not quite.
    let lengths: Vec<usize> = data.split(|&byte| byte == b'\n').map(<[u8]>::len).collect();
    let max_bytes = (lengths[choices.below(lengths.len())] + choices.below(3)).saturating_sub(1);
    let capacity = choices.below(data.len() + 1) + 1;
    let choices = Choices::of(data);
    let mut reader = BufReader::with_capacity(capacity, Dribble { rest: data, choices });
    let mut rest = data;
    loop {
        let line = finish(read_line(&mut reader, max_bytes)).expect("memory can be read");
        let end = rest.iter().position(|&byte| byte == b'\n');
        match line {
            Line::Whole(line) => {
                let end = end.expect("a line has its end");
                assert_eq!(line, &rest[..end]);
                assert!(line.len() <= max_bytes);
                rest = &rest[end + 1..];
            }
            Line::TooLong => return assert!(end.unwrap_or(rest.len()) > max_bytes, "{end:?} {max_bytes}"),
            Line::End => return assert!(end.is_none() && rest.len() <= max_bytes, "{end:?} {max_bytes}"),
        }
    }
}
