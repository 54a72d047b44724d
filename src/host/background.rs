//! Starting ourselves in the background, and becoming that process.
//!
//! Two halves: [`start`] in the foreground, [`detach`] as the first act of the new process. No fork without
//! exec, so that there is nothing of the first process left in the second but its environment. Called by
//! `commands::up` alone. Sources: setsid(2), close_range(2).

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::setsid;

/// Variables that belong to whoever started us. The first four say "you are the main process of a unit": the
/// background process is not, and must not behave as if a service manager would start it again. By the others CI
/// runners (GitHub's, Jenkins) know what a job has left, and kill it.
const NOT_INHERITED: [&str; 7] = [
    "NOTIFY_SOCKET",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
    "STATE_DIRECTORY",
    "RUNNER_TRACKING_ID",
    "JENKINS_NODE_COOKIE",
    "JENKINS_SERVER_COOKIE",
];

#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    #[error("{} cannot be written to", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no process can be started in the background")]
    Start(#[source] io::Error),
}

/// Starts this program with these arguments: stdin from nowhere, stdout and stderr appended to `log`, which
/// is made with its directory (0700) where it is missing.
pub fn start(arguments: &[OsString], log: &Path) -> Result<Child, BackgroundError> {
    let log_error = |source| BackgroundError::Log { path: log.to_owned(), source };
    let output = open_log(log).map_err(log_error)?;
    let errors = output.try_clone().map_err(log_error)?;
    let mut command = Command::new(own_executable());
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command.spawn().map_err(BackgroundError::Start)
}

/// Ourselves, by the name that `ps` shall show, as long as that still names the file that we run.
pub fn own_executable() -> PathBuf {
    named_executable().unwrap_or_else(|| RUNNING.into())
}

/// `None`: the file that we run is not there any more, or another one is.
pub fn named_executable() -> Option<PathBuf> {
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    let named = std::env::current_exe().ok()?;
    (identity(&named).is_some() && identity(&named) == identity(Path::new(RUNNING))).then_some(named)
}

/// Whatever became of its name.
const RUNNING: &str = "/proc/self/exe";

fn open_log(log: &Path) -> io::Result<File> {
    if let Some(dir) = log.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log)
}

/// Leaves the session of whoever started us, and every descriptor they left open: a terminal that closes
/// must not end us, and a CI step must not wait for a pipe that we hold. Before anything else is opened.
pub fn detach() -> io::Result<()> {
    setsid()?;
    #[expect(unsafe_code, reason = "JUSTIFICATION: neither nix nor rustix has close_range")]
    // SAFETY: called before this process has opened anything: no descriptor above 2 is owned by an object.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where a log ends now; what is written later begins there. 0 if there is none yet.
pub fn end_of(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// What was written to a log since `from`, at most its last 16 KiB.
pub fn written_since(log: &Path, from: u64) -> io::Result<String> {
    const MOST: u64 = 16 * 1024;
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(MOST))))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_goes_to_a_private_log_that_is_appended_to() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("state/reconciler.log");
        for _ in 0..2 {
            // The test binary refuses the option on stderr or stdout, whichever: it writes something.
            start(&["--no-such-option".into()], &log).unwrap().wait().unwrap();
        }
        let first = written_since(&log, 0).unwrap();
        let half = first.len() as u64 / 2;
        assert_eq!(written_since(&log, half).unwrap(), first[..first.len() / 2]);
        assert_eq!(end_of(&log), first.len() as u64);
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
