//! One probe of a service: over HTTP, over TCP, or the verdict on a command that has run.
//!
//! Says only whether this one probe passed, and if not why, as a sentence; when to probe and what follows from it
//! is for `plan`. Trusts nothing that is probed: a probe ends with its timeout whatever the other side does,
//! reads no body, follows no redirect and uses no proxy (both would answer for somebody else). No connection
//! is kept: a thousand services would hold a thousand sockets. Called by the host, one task a probe.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use reqwest::{Client, ClientBuilder, StatusCode};

use super::cause::plain;
use super::{JobOutcome, ProbeTarget, WROTE_TOO_MUCH};
use crate::state::{ExitStatus, is_shortage};
use crate::time::human;

/// Bytes of a compiled `expect_regex`.
const REGEX_BYTES: usize = 1 << 20;
/// Compiled expressions that are kept.
const REGEX_CACHE: usize = 256;

/// Why a probe has not passed; a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeError {
    /// By what was probed.
    Failed(String),
    /// The machine was out of what it takes to ask: nothing is known of what was to be probed.
    NotMade(String),
}

impl ProbeError {
    /// `sentence` says what `error` means.
    fn of(error: &io::Error, sentence: String) -> Self {
        match error.raw_os_error() {
            Some(errno) if is_shortage(errno) => Self::NotMade(sentence),
            Some(_) | None => Self::Failed(sentence),
        }
    }
}

/// Probes services. Its clients are made when first needed: a machine without HTTP checks pays nothing.
#[derive(Debug, Default)]
pub struct Prober {
    plain: OnceLock<Result<Client, String>>,
    /// A client of its own: it alone needs the machine's certificates, which take time to load and which a bare
    /// machine does not have.
    tls: OnceLock<Result<Client, String>>,
}

impl Prober {
    pub fn new() -> Self {
        Self::default()
    }

    /// `timeout` covers all of it, from looking up the name to the status line and headers.
    /// Cancel safe.
    pub async fn run(&self, target: &ProbeTarget, timeout: Duration) -> Result<(), ProbeError> {
        let probe = async {
            match target {
                ProbeTarget::Http { url, expect_status } => self.http(url, *expect_status).await,
                ProbeTarget::Tcp { host, port } => tcp(host, *port).await,
            }
        };
        tokio::time::timeout(timeout, probe)
            .await
            .unwrap_or_else(|_| Err(ProbeError::Failed(format!("timed out after {}", human(timeout)))))
    }

    async fn http(&self, url: &str, expect_status: Option<u16>) -> Result<(), ProbeError> {
        let client = if is_https(url) {
            self.tls.get_or_init(|| build(base()))
        } else {
            self.plain.get_or_init(|| build(base().tls_certs_only([])))
        };
        let client = client.as_ref().map_err(|why| ProbeError::Failed(why.clone()))?;
        // The body goes with the response, and the connection with the body.
        let response = client.get(url).send().await.map_err(|error| http_error(&error))?;
        judge_status(response.status(), expect_status).map_err(ProbeError::Failed)
    }
}

fn is_https(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

fn base() -> ClientBuilder {
    // Fails if somebody was here before, who then chose for all of us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .http1_only()
        .user_agent(concat!("reconcile/", env!("CARGO_PKG_VERSION")))
}

fn build(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| format!("no HTTP client can be made: {}", root_cause(&error)))
}

fn judge_status(status: StatusCode, expect: Option<u16>) -> Result<(), String> {
    let code = status.as_u16();
    match expect {
        Some(expected) if expected == code => Ok(()),
        None if status.is_success() => Ok(()),
        _ if status.is_redirection() => Err(format!("answered {code}; redirects are not followed")),
        Some(expected) => Err(format!("answered {code}, not {expected}")),
        None => Err(format!("answered {code}")),
    }
}

/// Never names the URL, which may hold a password.
fn http_error(error: &reqwest::Error) -> ProbeError {
    let cause = root_cause(error);
    let sentence = if error.is_builder() {
        format!("the URL is unusable: {cause}")
    } else if error.is_dns() {
        format!("the host name cannot be resolved: {cause}")
    } else {
        cause
    };
    match innermost(error).downcast_ref() {
        Some(error) => ProbeError::of(error, sentence),
        None => ProbeError::Failed(sentence),
    }
}

async fn tcp(host: &str, port: u16) -> Result<(), ProbeError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = tokio::net::TcpStream::connect((host, port)).await;
    connected.map(drop).map_err(|error| ProbeError::of(&error, plain(&error)))
}

/// `connection refused`, not that a request failed.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let innermost = innermost(error);
    innermost.downcast_ref().map_or_else(|| innermost.to_string(), plain)
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// Whether a command check passed: exit code 0, and `expect_regex` found in its output. An error does not quote the
/// output, which may hold secrets.
pub fn judge_command(outcome: &JobOutcome, expect_regex: Option<&str>) -> Result<(), ProbeError> {
    let sentence = match outcome {
        JobOutcome::Exit { status: ExitStatus::Code(0), output } => match expect_regex {
            Some(expression) => return judge_output(output, expression).map_err(ProbeError::Failed),
            None => return Ok(()),
        },
        JobOutcome::Exit { output, .. } if output.ends_with(WROTE_TOO_MUCH) => {
            "its check wrote more than 1 MiB and was killed".to_owned()
        }
        JobOutcome::Exit { status, .. } => format!("its check ended with {status}"),
        JobOutcome::TimedOut => "its check did not end in time".to_owned(),
        JobOutcome::NotStarted(failure) if failure.is_of_the_machine() => {
            return Err(ProbeError::NotMade(failure.message.clone()));
        }
        JobOutcome::NotStarted(failure) => format!("its check could not be started: {}", failure.message),
        JobOutcome::Cancelled => "its check was interrupted".to_owned(),
    };
    Err(ProbeError::Failed(sentence))
}

fn judge_output(output: &str, expression: &str) -> Result<(), String> {
    if compiled(expression)?.is_match(output) {
        Ok(())
    } else {
        Err(format!("the output of its check does not match `{expression}`"))
    }
}

/// Compiled once, since a check may run four times a second.
pub(super) fn compiled(expression: &str) -> Result<Regex, String> {
    static CACHE: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut cache = CACHE.lock().expect("nothing panics while it holds the cache");
    if let Some(regex) = cache.get(expression) {
        return Ok(regex.clone());
    }
    let regex = RegexBuilder::new(expression).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
    let regex = regex.map_err(|error| format!("`{expression}` is not a usable expression: {error}"))?;
    if cache.len() >= REGEX_CACHE {
        cache.clear();
    }
    cache.insert(expression.to_owned(), regex.clone());
    Ok(regex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{SpawnFailure, SpawnStage};

    fn failed(sentence: &str) -> Result<(), ProbeError> {
        Err(ProbeError::Failed(sentence.to_owned()))
    }

    fn exit(status: ExitStatus, output: &str) -> JobOutcome {
        JobOutcome::Exit { status, output: output.to_owned() }
    }

    #[test]
    fn a_command_passes_with_code_0_and_the_expected_output() {
        let clean = exit(ExitStatus::Code(0), "queue: 3 waiting\nok\n");
        assert_eq!(judge_command(&clean, None), Ok(()));
        assert_eq!(judge_command(&clean, Some(r"(?m)^ok$")), Ok(()));
        let verdict = judge_command(&clean, Some("^ok$"));
        assert_eq!(verdict, failed("the output of its check does not match `^ok$`"));
    }

    #[test]
    fn every_other_end_of_a_command_fails_and_says_how() {
        let verdict = |outcome| judge_command(&outcome, Some("secret"));
        assert_eq!(verdict(exit(ExitStatus::Code(3), "secret")), failed("its check ended with exit code 3"));
        assert_eq!(verdict(exit(ExitStatus::Signal(9), "secret")), failed("its check ended with signal 9"));
        let endless = format!("secret{WROTE_TOO_MUCH}");
        assert_eq!(
            verdict(exit(ExitStatus::Signal(9), &endless)),
            failed("its check wrote more than 1 MiB and was killed")
        );
        assert_eq!(verdict(JobOutcome::TimedOut), failed("its check did not end in time"));
        assert_eq!(verdict(JobOutcome::Cancelled), failed("its check was interrupted"));
        let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2, message: "no such file".to_owned() };
        assert_eq!(
            verdict(JobOutcome::NotStarted(failure)),
            failed("its check could not be started: no such file")
        );
    }

    /// Whether the process, the machine or its user is out of something.
    #[test]
    fn what_the_machine_is_out_of_is_no_verdict() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM, libc::ENOBUFS] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(
                ProbeError::of(&error, "x".to_owned()),
                ProbeError::NotMade("x".to_owned()),
                "{error}"
            );
            let failure = SpawnFailure { stage: SpawnStage::Exec, errno, message: "x".to_owned() };
            let verdict = judge_command(&JobOutcome::NotStarted(failure), None);
            assert_eq!(verdict, Err(ProbeError::NotMade("x".to_owned())), "{error}");
        }
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(ProbeError::of(&refused, "x".to_owned()), ProbeError::Failed("x".to_owned()));
    }

    #[test]
    fn an_expression_that_would_eat_the_memory_is_refused() {
        let clean = exit(ExitStatus::Code(0), "x");
        let verdict = judge_command(&clean, Some(r"(\w{100}){100}{100}"));
        assert!(matches!(&verdict, Err(ProbeError::Failed(why)) if why.contains("not a usable expression")));
    }

    #[test]
    fn the_cache_of_expressions_is_bounded_and_still_right() {
        for index in 0..REGEX_CACHE * 2 {
            let output = exit(ExitStatus::Code(0), &format!("n{index}."));
            assert_eq!(judge_command(&output, Some(&format!("^n{index}\\.$"))), Ok(()));
        }
    }

    #[test]
    fn statuses_are_judged_as_declared() {
        let judge = |code, expect| judge_status(StatusCode::from_u16(code).unwrap(), expect);
        assert_eq!(judge(204, None), Ok(()));
        assert_eq!(judge(404, Some(404)), Ok(()));
        assert_eq!(judge(302, Some(302)), Ok(()));
        assert_eq!(judge(302, None), Err("answered 302; redirects are not followed".to_owned()));
        assert_eq!(judge(200, Some(204)), Err("answered 200, not 204".to_owned()));
        assert_eq!(judge(503, None), Err("answered 503".to_owned()));
    }
}
