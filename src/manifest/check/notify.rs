//! `health` of type notify beside the rest of its service: what the service is told is ours to say, and the descriptor
//! of readiness is none of those that its sockets have.

use super::marks::Marks;
use crate::manifest::code;
use crate::manifest::problems::Problems;
use crate::manifest::spec::{HealthCheck, Spec};

/// The descriptor of the first socket. Source: sd_listen_fds(3).
const FIRST_SOCKET: usize = 3;

pub(super) fn check(spec: &Spec, marks: &Marks<'_>, problems: &mut Problems<'_>) {
    let Some(HealthCheck::Notify { watchdog, fd }) = spec.health.as_ref().map(|health| &health.check) else {
        return;
    };
    let behind_sockets = FIRST_SOCKET + spec.sockets.len();
    if let Some(fd) = fd.filter(|fd| usize::from(*fd) < behind_sockets) {
        let message = format!("descriptor {fd} is that of a socket: they are passed from {FIRST_SOCKET} on");
        let report = problems.add(marks.of("health.notify_fd"), code::CONFLICTING_KEYS, message);
        report.help(format!("the first that is free is {behind_sockets}"));
    }
    let told = [
        ("NOTIFY_SOCKET", fd.is_none()),
        ("WATCHDOG_USEC", watchdog.is_some()),
        ("WATCHDOG_PID", watchdog.is_some()),
    ];
    for (key, _) in told.into_iter().filter(|(key, is_told)| *is_told && spec.env.contains_key(*key)) {
        let message = format!("`{key}` tells it how to say how it is, and cannot be given another value");
        problems.add(marks.of_variable(key), code::RESERVED_ENV, message).help("leave it out of `env`");
    }
}

#[cfg(test)]
mod tests {
    use crate::manifest::load;

    fn codes(fields: &str) -> Vec<String> {
        let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
        loaded.problems.into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn what_a_service_says_itself_is_neither_asked_nor_said_twice() {
        const SOCKETS: &str = "sockets = { a = '127.0.0.1:80', b = '127.0.0.1:81' }";
        for (fields, code) in [
            ("health = { type = 'notify', interval = '1s' }", "conflicting-keys"),
            ("health = { log = 'a', retries = 2 }", "conflicting-keys"),
            ("health = { log = 'a', watchdog = '1s' }", "conflicting-keys"),
            ("health = { log = '(' }", "bad-regex"),
            ("health = { type = 'log' }", "missing-key"),
            ("health = { notify_fd = 3, watchdog = '1s' }", "conflicting-keys"),
            ("health = { notify_fd = 2 }", "out-of-range"),
            (&format!("health = {{ notify_fd = 4 }}\n{SOCKETS}"), "conflicting-keys"),
            ("health = { type = 'notify' }\nenv.NOTIFY_SOCKET = '@a'", "reserved-env"),
            ("health = { watchdog = '1s' }\nenv.WATCHDOG_USEC = '1'", "reserved-env"),
        ] {
            assert_eq!(codes(fields), [code], "{fields}");
        }
        for fields in [
            "health = { type = 'notify', start_timeout = '1s', on_unhealthy = 'report' }",
            "health = { notify_fd = 3 }\nenv.NOTIFY_SOCKET = '@a'",
            &format!("health = {{ notify_fd = 5 }}\n{SOCKETS}"),
            "env.WATCHDOG_USEC = '1'",
        ] {
            assert_eq!(codes(fields), [""; 0], "{fields}");
        }
    }
}
