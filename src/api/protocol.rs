//! The words on the control socket: one JSON value a line, the server's hello first.
//!
//! ```text
//! server  {"reconcile":"0.1.0","oldest":1,"newest":1,"pid":4711}
//! client  {"protocol":1,"id":1,"request":{"command":"status"}}
//! server  {"id":1,"answer":{"answer":"status",…}}    or    {"id":1,"error":{"code":…,"message":…}}
//! ```
//!
//! A request names the version it is written in, so that an upgraded watcher and an older command line
//! either understand each other or say plainly which of them is too old. Data alone.

use serde::{Deserialize, Serialize};

use crate::reconciler::command::{Answer, Command};

/// The oldest version that is still understood.
pub const OLDEST: u32 = 1;
/// The version spoken here.
pub const NEWEST: u32 = 1;

/// The longest request line, in bytes; names and paths, never texts.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The longest answer line, in bytes: a status of some ten thousand services.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The first line of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the program, for people.
    pub reconcile: String,
    pub oldest: u32,
    pub newest: u32,
    /// Of the watcher, for messages.
    pub pid: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub protocol: u32,
    /// Comes back with the answer.
    pub id: u64,
    pub request: Command,
}

/// What can be read of a request whose `request` is of a version unknown here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Envelope {
    pub protocol: u32,
    pub id: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ResponseFields")]
pub struct Response {
    /// `None` if the request could not be read so far.
    pub id: Option<u64>,
    #[serde(flatten)]
    pub body: Body,
}

/// Read by itself: what serde flattens it first keeps as a tree of values, and a status may be megabytes.
#[derive(Deserialize)]
struct ResponseFields {
    id: Option<u64>,
    answer: Option<Answer>,
    error: Option<ProtocolError>,
}

impl TryFrom<ResponseFields> for Response {
    type Error = &'static str;

    fn try_from(fields: ResponseFields) -> Result<Self, Self::Error> {
        let body = match (fields.answer, fields.error) {
            (Some(answer), None) => Body::Answer(answer),
            (None, Some(error)) => Body::Error(error),
            (None, None) | (Some(_), Some(_)) => return Err("a response is an answer or an error"),
        };
        Ok(Self { id: fields.id, body })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    Answer(Answer),
    Error(ProtocolError),
}

/// The request never reached the reconciler; a refusal by the reconciler itself is an [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolError {
    /// Stable, kebab-case: `bad-request`, `request-too-long`, `unsupported-protocol`, `shutting-down`, `busy`,
    /// `forbidden`.
    pub code: String,
    pub message: String,
}

impl ProtocolError {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// Reads a request line: version first, so that a newer client is told so and not called malformed.
pub fn parse_request(line: &[u8]) -> Result<Request, (Option<u64>, ProtocolError)> {
    let bad = |error: serde_json::Error| ProtocolError::new("bad-request", error.to_string());
    let envelope: Envelope = serde_json::from_slice(line).map_err(|error| (None, bad(error)))?;
    if !(OLDEST..=NEWEST).contains(&envelope.protocol) {
        let message = format!(
            "the request is in version {} of the protocol, this watcher understands {OLDEST} to {NEWEST}",
            envelope.protocol
        );
        return Err((Some(envelope.id), ProtocolError::new("unsupported-protocol", message)));
    }
    serde_json::from_slice(line).map_err(|error| (Some(envelope.id), bad(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_as_written() {
        let request = Request { protocol: 1, id: 7, request: Command::Stop { names: vec!["web".into()] } };
        let line = serde_json::to_vec(&request).unwrap();
        assert_eq!(parse_request(&line).unwrap(), request);
    }

    #[test]
    fn the_first_version_stays_readable() {
        let line = br#"{"protocol":1,"id":1,"request":{"command":"status"}}"#;
        assert_eq!(parse_request(line).unwrap().request, Command::Status);
    }

    #[test]
    fn a_newer_version_is_named_and_not_called_malformed() {
        let line = br#"{"protocol":9,"id":3,"request":{"command":"of-the-future"}}"#;
        let (id, error) = parse_request(line).unwrap_err();
        assert_eq!((id, error.code.as_str()), (Some(3), "unsupported-protocol"));
    }

    #[test]
    fn nonsense_is_a_bad_request_with_the_id_where_there_is_one() {
        assert_eq!(parse_request(b"hello").unwrap_err().1.code, "bad-request");
        let (id, error) =
            parse_request(br#"{"protocol":1,"id":3,"request":{"command":"dance"}}"#).unwrap_err();
        assert_eq!((id, error.code.as_str()), (Some(3), "bad-request"));
    }

    #[test]
    fn errors_and_answers_are_told_apart_by_their_key() {
        let error = Response { id: None, body: Body::Error(ProtocolError::new("busy", "later")) };
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(text, r#"{"id":null,"error":{"code":"busy","message":"later"}}"#);
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), error);
    }
}
