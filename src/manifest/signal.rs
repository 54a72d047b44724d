//! Signals by name. Source: signal(7); numbers from libc, since they differ between architectures.

use std::fmt;

use super::spec::SignalName;

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

impl SignalName {
    pub const TERM: Self = Self(libc::SIGTERM);

    /// Parses `TERM`, `SIGTERM`, `RTMIN+3`, `RTMAX-1`.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(Self(*number));
        }
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => libc::SIGRTMIN(),
            (_, Some("")) => libc::SIGRTMAX(),
            (Some(rest), _) => libc::SIGRTMIN() + offset(rest.strip_prefix('+')?)?,
            (_, Some(rest)) => libc::SIGRTMAX() - offset(rest.strip_prefix('-')?)?,
            (None, None) => return None,
        };
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(Self(number))
    }

    /// True for signals that suspend a process, which therefore never end it.
    pub fn suspends(self) -> bool {
        matches!(self.0, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
    }

    /// The names that [`SignalName::parse`] takes, without the real-time ones.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

fn offset(digits: &str) -> Option<i32> {
    let plain = !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return f.pad(name);
        }
        if self.0 == libc::SIGRTMIN() {
            return f.pad("RTMIN");
        }
        if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&self.0) {
            return f.pad(&format!("RTMIN+{}", self.0 - libc::SIGRTMIN()));
        }
        f.pad(&self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_being_written() {
        for number in (1..=31).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            let signal = SignalName(number);
            assert_eq!(SignalName::parse(&signal.to_string()), Some(signal), "{signal}");
            assert_eq!(SignalName::parse(&format!("SIG{signal}")), Some(signal), "SIG{signal}");
        }
    }

    #[test]
    fn real_time_signals_stay_in_their_range() {
        assert_eq!(SignalName::parse("RTMAX-1"), Some(SignalName(libc::SIGRTMAX() - 1)));
        for bad in ["RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMIN+", "RTMIN++1", "RTMIN+-1", "RTMIN+999999999999"]
        {
            assert_eq!(SignalName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_words_are_no_signals() {
        for bad in ["", "SIG", "term", "15", "SIGSIGTERM", "TERM "] {
            assert_eq!(SignalName::parse(bad), None, "{bad}");
        }
    }
}
