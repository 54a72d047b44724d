//! One probe of a service: over HTTP, over TCP, or the verdict on a command that has run.
//!
//! Says only whether this one probe passed, and if not why, as a sentence; when to probe and what follows from it
//! is for `plan`. Trusts nothing that is probed: a probe ends with its timeout whatever the other side does,
//! reads no body, follows no redirect and uses no proxy (both would answer for somebody else). No connection
//! is kept: a thousand services would hold a thousand sockets. Called by the host, one task a probe.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use reqwest::{Client, ClientBuilder, StatusCode};

use super::cause::plain;
use super::{JobOutcome, ProbeTarget, WROTE_TOO_MUCH};
use crate::state::ExitStatus;
use crate::time::human;

/// Bytes of a compiled `expect_regex`.
const REGEX_BYTES: usize = 1 << 20;
/// Compiled expressions that are kept.
const REGEX_CACHE: usize = 256;

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

    /// `Err` is a sentence. `timeout` covers all of it, from looking up the name to the status line and headers.
    /// Cancel safe.
    pub async fn run(&self, target: &ProbeTarget, timeout: Duration) -> Result<(), String> {
        let probe = async {
            match target {
                ProbeTarget::Http { url, expect_status } => self.http(url, *expect_status).await,
                ProbeTarget::Tcp { host, port } => tcp(host, *port).await,
            }
        };
        tokio::time::timeout(timeout, probe)
            .await
            .unwrap_or_else(|_| Err(format!("timed out after {}", human(timeout))))
    }

    async fn http(&self, url: &str, expect_status: Option<u16>) -> Result<(), String> {
        let client = if is_https(url) {
            self.tls.get_or_init(|| build(base()))
        } else {
            self.plain.get_or_init(|| build(base().tls_certs_only([])))
        };
        let client = client.as_ref().map_err(Clone::clone)?;
        // The body goes with the response, and the connection with the body.
        let response = client.get(url).send().await.map_err(|error| http_sentence(&error))?;
        judge_status(response.status(), expect_status)
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
fn http_sentence(error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    if error.is_builder() {
        format!("the URL is unusable: {cause}")
    } else if error.is_dns() {
        format!("the host name cannot be resolved: {cause}")
    } else {
        cause
    }
}

async fn tcp(host: &str, port: u16) -> Result<(), String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = tokio::net::TcpStream::connect((host, port)).await;
    connected.map(drop).map_err(|error| plain(&error))
}

/// The innermost error of a chain: `connection refused`, not that a request failed.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.downcast_ref().map_or_else(|| innermost.to_string(), plain)
}

/// Whether a command check passed: exit code 0, and `expect_regex` found in its output. `Err` is a sentence; it
/// does not quote the output, which may hold secrets.
pub fn judge_command(outcome: &JobOutcome, expect_regex: Option<&str>) -> Result<(), String> {
    match outcome {
        JobOutcome::Exit { status: ExitStatus::Code(0), output } => match expect_regex {
            Some(expression) => judge_output(output, expression),
            None => Ok(()),
        },
        JobOutcome::Exit { output, .. } if output.ends_with(WROTE_TOO_MUCH) => {
            Err("its check wrote more than 1 MiB and was killed".to_owned())
        }
        JobOutcome::Exit { status, .. } => Err(format!("its check ended with {status}")),
        JobOutcome::TimedOut => Err("its check did not end in time".to_owned()),
        JobOutcome::NotStarted(failure) => {
            Err(format!("its check could not be started: {}", failure.message))
        }
        JobOutcome::Cancelled => Err("its check was interrupted".to_owned()),
    }
}

fn judge_output(output: &str, expression: &str) -> Result<(), String> {
    if compiled(expression)?.is_match(output) {
        Ok(())
    } else {
        Err(format!("the output of its check does not match `{expression}`"))
    }
}

/// Compiled once, since a check may run four times a second.
fn compiled(expression: &str) -> Result<Regex, String> {
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

    fn exit(status: ExitStatus, output: &str) -> JobOutcome {
        JobOutcome::Exit { status, output: output.to_owned() }
    }

    #[test]
    fn a_command_passes_with_code_0_and_the_expected_output() {
        let clean = exit(ExitStatus::Code(0), "queue: 3 waiting\nok\n");
        assert_eq!(judge_command(&clean, None), Ok(()));
        assert_eq!(judge_command(&clean, Some(r"(?m)^ok$")), Ok(()));
        let verdict = judge_command(&clean, Some("^ok$")).unwrap_err();
        assert_eq!(verdict, "the output of its check does not match `^ok$`");
    }

    #[test]
    fn every_other_end_of_a_command_fails_and_says_how() {
        let sentence = |outcome| judge_command(&outcome, Some("secret")).unwrap_err();
        assert_eq!(sentence(exit(ExitStatus::Code(3), "secret")), "its check ended with exit code 3");
        assert_eq!(sentence(exit(ExitStatus::Signal(9), "secret")), "its check ended with signal 9");
        let endless = format!("secret{WROTE_TOO_MUCH}");
        assert_eq!(
            sentence(exit(ExitStatus::Signal(9), &endless)),
            "its check wrote more than 1 MiB and was killed"
        );
        assert_eq!(sentence(JobOutcome::TimedOut), "its check did not end in time");
        assert_eq!(sentence(JobOutcome::Cancelled), "its check was interrupted");
        let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2, message: "no such file".to_owned() };
        assert_eq!(sentence(JobOutcome::NotStarted(failure)), "its check could not be started: no such file");
    }

    #[test]
    fn an_expression_that_would_eat_the_memory_is_refused() {
        let clean = exit(ExitStatus::Code(0), "x");
        let verdict = judge_command(&clean, Some(r"(\w{100}){100}{100}")).unwrap_err();
        assert!(verdict.contains("not a usable expression"), "{verdict}");
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
