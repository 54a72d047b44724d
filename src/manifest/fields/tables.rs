//! The fields of the tables below a service.

use std::time::Duration;

use serde_json::Value;

use super::{Class, Field, Kind, Table, check_port, command, duration, in_check, in_health, set, shell};
use crate::manifest::choice::{CheckType, Choice, words};
use crate::manifest::demand::ActivateOn;
use crate::manifest::spec::{HealthCheck, Limits, OnUnhealthy, RestartPolicy, SignalTo, Spec};

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(super) const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Shorter ones would only burn CPU.
const TICK: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// How long a service may be left idle: the least, and the most.
pub(in crate::manifest) const STOPPED_AFTER: (Duration, Duration) = (SECOND, YEAR);

const LINE: Kind = Kind::Text { lines: false, pattern: None };
const PERIOD: Kind = Kind::Duration { min: TICK, max: DAY };

/// A field of class live.
const fn live(path: &'static str, kind: Kind, doc: &'static str, value: fn(&Spec) -> Value) -> Field {
    Field { path, class: Class::Live, kind, doc, value }
}

pub(super) static HEALTH: Table = Table {
    name: "health",
    doc: "How to tell that it works. Short form: `health = \"/health\"`, a path on `url`.",
    is_default: |spec, baseline| spec.health.is_none() || spec.health == baseline.health,
    fields: &[
        live(
            "health.type",
            Kind::Choice(words::<CheckType>),
            "http, tcp, command, log or notify. Inferred from the keys that are given.",
            |spec| {
                in_check(spec, |check| {
                    let check_type = match check {
                        HealthCheck::Http { .. } => CheckType::Http,
                        HealthCheck::Tcp { .. } => CheckType::Tcp,
                        HealthCheck::Command { .. } => CheckType::Command,
                        HealthCheck::Log { .. } => CheckType::Log,
                        HealthCheck::Notify { .. } => CheckType::Notify,
                    };
                    check_type.word().into()
                })
            },
        ),
        live(
            "health.url",
            LINE,
            "http: what to GET; a path like \"/health\" is one on the service's `url`. Redirects are not \
             followed, proxies are not used.",
            |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Http { url, .. } => url.as_str().into(),
                    _ => Value::Null,
                })
            },
        ),
        live(
            "health.expect_status",
            Kind::Integer { min: 100, max: 599 },
            "http: the status that is good. Without it: any from 200 to 299.",
            |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Http { expect_status, .. } => (*expect_status).into(),
                    _ => Value::Null,
                })
            },
        ),
        live("health.host", LINE, "tcp: where to connect. Without it: 127.0.0.1.", |spec| {
            in_check(spec, |check| match check {
                HealthCheck::Tcp { host, .. } => host.as_str().into(),
                _ => Value::Null,
            })
        }),
        live(
            "health.port",
            Kind::CheckPort,
            "tcp: the port to connect to, or its name in `ports`.",
            |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Tcp { port, .. } => check_port(port),
                    _ => Value::Null,
                })
            },
        ),
        live(
            "health.command",
            Kind::Command { may_be_none: false },
            "command: run beside the service, as its user, in its directory; good is exit code 0.",
            |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Command { command: line, .. } => command(line),
                    _ => Value::Null,
                })
            },
        ),
        live("health.shell", Kind::Shell, "command: as `shell` of the service.", |spec| {
            in_check(spec, |check| match check {
                HealthCheck::Command { command: line, .. } => shell(line),
                _ => Value::Null,
            })
        }),
        live("health.expect_regex", LINE, "command: must be found in its output as well.", |spec| {
            in_check(spec, |check| match check {
                HealthCheck::Command { expect_regex, .. } => expect_regex.clone().into(),
                _ => Value::Null,
            })
        }),
        live(
            "health.log",
            LINE,
            "log: ready once a line of its output in this run matches; only the first 4 KiB of a line count.",
            |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Log { pattern } => pattern.as_str().into(),
                    _ => Value::Null,
                })
            },
        ),
        Field {
            path: "health.watchdog",
            // The process is told of it when it is started.
            class: Class::Restart,
            kind: PERIOD,
            doc: "notify: unhealthy once it has said nothing for this long (WATCHDOG=1). Without it: not looked for.",
            value: |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Notify { watchdog: Some(watchdog), .. } => duration(*watchdog),
                    _ => Value::Null,
                })
            },
        },
        Field {
            path: "health.notify_fd",
            class: Class::Restart,
            kind: Kind::Integer { min: 3, max: 255 },
            doc: "notify: ready once it writes a newline to this descriptor, as with s6; instead of a socket.",
            value: |spec| {
                in_check(spec, |check| match check {
                    HealthCheck::Notify { fd, .. } => (*fd).into(),
                    _ => Value::Null,
                })
            },
        },
        live("health.interval", PERIOD, "Between probes, once it was ready.", |spec| {
            in_health(spec, |health| duration(health.interval))
        }),
        live("health.start_interval", PERIOD, "Between probes, until it is first ready.", |spec| {
            in_health(spec, |health| duration(health.start_interval))
        }),
        live("health.timeout", PERIOD, "The longest that one probe may take.", |spec| {
            in_health(spec, |health| duration(health.timeout))
        }),
        live(
            "health.start_timeout",
            PERIOD,
            "From the start until it is first ready; missed, the start has failed.",
            |spec| in_health(spec, |health| duration(health.start_timeout)),
        ),
        live(
            "health.retries",
            Kind::Integer { min: 1, max: 1000 },
            "Failures in a row until it is unhealthy.",
            |spec| in_health(spec, |health| health.retries.into()),
        ),
        live(
            "health.on_unhealthy",
            Kind::Choice(words::<OnUnhealthy>),
            "What follows: restart, or only report.",
            |spec| in_health(spec, |health| health.on_unhealthy.word().into()),
        ),
    ],
};

pub(super) static ACTIVATION: Table = Table {
    name: "activation",
    doc: "What it runs for: always, or only while somebody uses it.",
    is_default: |spec, baseline| spec.activation == baseline.activation,
    fields: &[
        live(
            "activation.on",
            Kind::Choice(words::<ActivateOn>),
            "always: it is started at once. connection: when somebody connects to one of its `sockets`, who waits until it \
             accepts. request: when `reconcile ensure` or `start` names it. Each is also started for a lease, and for a \
             service that depends on it.",
            |spec| spec.activation.on.word().into(),
        ),
        live(
            "activation.idle",
            Kind::Duration { min: STOPPED_AFTER.0, max: STOPPED_AFTER.1 },
            "Stopped when nobody has used it for this long: no connection to its `sockets`, no `reconcile touch` or \
             `ensure`, no lease, no service that depends on it. Short for a `stop_policy`.",
            |spec| spec.activation.idle.map_or(Value::Null, duration),
        ),
        Field {
            path: "activation.proxy",
            class: Class::Restart,
            kind: LINE,
            doc: "Where it listens itself, for a program that cannot be passed a socket: a port, an IP address with a port, \
                  or a path. Who connects to its one socket is handed on there.",
            value: |spec| spec.activation.proxy.clone().into(),
        },
    ],
};

pub(super) static RESTART: Table = Table {
    name: "restart",
    doc: "What follows when it ends by itself.",
    is_default: |spec, baseline| spec.restart == baseline.restart,
    fields: &[
        live(
            "restart.policy",
            Kind::Choice(words::<RestartPolicy>),
            "always, on-failure or never.",
            |spec| spec.restart.policy.word().into(),
        ),
        live("restart.success_codes", Kind::ExitCodes, "Exit codes that are no failure.", |spec| {
            set(&spec.restart.success_codes)
        }),
        live(
            "restart.success_signals",
            Kind::Signals,
            "Signals that it may be ended by without it being a failure.",
            |spec| {
                let names: Vec<String> =
                    spec.restart.success_signals.iter().map(ToString::to_string).collect();
                set(&names)
            },
        ),
        live(
            "restart.backoff",
            PERIOD,
            "The wait after the first failure, with up to 20 % jitter.",
            |spec| duration(spec.restart.backoff),
        ),
        live(
            "restart.backoff_factor",
            Kind::Number { min: 1.0, max: 100.0 },
            "How many times longer each further wait is.",
            |spec| spec.restart.backoff_factor.into(),
        ),
        live("restart.backoff_max", PERIOD, "The longest wait.", |spec| duration(spec.restart.backoff_max)),
        live(
            "restart.max_failures",
            Kind::Integer { min: 1, max: 1_000_000 },
            "Failures in a row until it is parked as failed, until `reconcile reset` or a changed manifest.",
            |spec| spec.restart.max_failures.into(),
        ),
        live(
            "restart.window",
            Kind::Duration { min: SECOND, max: YEAR },
            "A run longer than this before it failed starts the count again at 1.",
            |spec| duration(spec.restart.window),
        ),
        live(
            "restart.stable_after",
            Kind::Duration { min: Duration::ZERO, max: YEAR },
            "Up, and ready, for this long: the count goes back to 0.",
            |spec| duration(spec.restart.stable_after),
        ),
    ],
};

pub(super) static STOP: Table = Table {
    name: "stop",
    doc: "How it is stopped.",
    is_default: |spec, baseline| spec.stop == baseline.stop,
    fields: &[
        live("stop.signal", Kind::Signal, "The signal that asks it to end.", |spec| {
            spec.stop.signal.to_string().into()
        }),
        live(
            "stop.signal_to",
            Kind::Choice(words::<SignalTo>),
            "group: its process group; leader: its first process alone.",
            |spec| spec.stop.signal_to.word().into(),
        ),
        live(
            "stop.grace",
            Kind::Duration { min: Duration::ZERO, max: DAY },
            "How long it has to end; then everything of it is killed.",
            |spec| duration(spec.stop.grace),
        ),
        live(
            "stop.command",
            Kind::Command { may_be_none: true },
            "Run before the signal, beside the service and as its user. [] is none.",
            |spec| spec.stop.command.as_ref().map_or(Value::Array(Vec::new()), command),
        ),
        live("stop.shell", Kind::Shell, "For `stop.command`, as `shell` of the service.", |spec| {
            spec.stop.command.as_ref().map_or(Value::Bool(false), shell)
        }),
    ],
};

pub(super) static RELOAD: Table = Table {
    name: "reload",
    doc: "How it takes up files without a restart.",
    is_default: |spec, baseline| spec.reload == baseline.reload,
    fields: &[
        live(
            "reload.on",
            Kind::Texts,
            "Files, as `restart_on`: the signal is sent or the command run, once it is up, when one of them gets other \
             content.",
            |spec| set(&spec.reload.on),
        ),
        live("reload.signal", Kind::Signal, "Sent to its first process.", |spec| {
            spec.reload.signal.to_string().into()
        }),
        live(
            "reload.command",
            Kind::Command { may_be_none: true },
            "Run in place of the signal, beside the service and as its user; tried again after the waits of `restart` \
             if it fails. [] is none.",
            |spec| spec.reload.command.as_ref().map_or(Value::Array(Vec::new()), command),
        ),
        live("reload.shell", Kind::Shell, "For `reload.command`, as `shell` of the service.", |spec| {
            spec.reload.command.as_ref().map_or(Value::Bool(false), shell)
        }),
        live("reload.timeout", PERIOD, "Then the command is killed, and has failed.", |spec| {
            duration(spec.reload.timeout)
        }),
    ],
};

/// A resource limit.
const fn limit(path: &'static str, kind: Kind, doc: &'static str, value: fn(&Spec) -> Value) -> Field {
    Field { path, class: Class::Restart, kind, doc, value }
}

/// As a manifest writes it: the kernel's largest number means none.
fn bound(value: Option<u64>) -> Value {
    match value {
        Some(Limits::UNLIMITED) => "unlimited".into(),
        other => other.into(),
    }
}

pub(super) static LIMITS: Table = Table {
    name: "limits",
    doc: "Resource limits of each of its processes (setrlimit(2)), soft and hard alike; without one, that of the \
          reconciler. And limits of all of them together, where the controllers of cgroups are to be had.",
    is_default: |spec, baseline| spec.limits == baseline.limits,
    fields: &[
        limit("limits.nofile", Kind::Count, "Open files.", |spec| bound(spec.limits.nofile)),
        limit("limits.nproc", Kind::Count, "Processes and threads of the user.", |spec| {
            bound(spec.limits.nproc)
        }),
        limit("limits.core", Kind::Size, "Size of a core dump.", |spec| bound(spec.limits.core)),
        limit("limits.fsize", Kind::Size, "Size of a file that it writes.", |spec| bound(spec.limits.fsize)),
        limit("limits.memlock", Kind::Size, "Memory locked into RAM.", |spec| bound(spec.limits.memlock)),
        limit("limits.stack", Kind::Size, "Size of the stack.", |spec| bound(spec.limits.stack)),
        limit("limits.address_space", Kind::Size, "Size of the address space.", |spec| {
            bound(spec.limits.address_space)
        }),
        limit(
            "limits.cpu",
            Kind::Duration { min: SECOND, max: YEAR },
            "CPU time, in whole seconds.",
            |spec| spec.limits.cpu.map_or(Value::Null, duration),
        ),
        live(
            "limits.memory_max",
            Kind::Size,
            "Memory of all its processes together, by its cgroup: what does not fit is swapped out, or killed.",
            |spec| bound(spec.limits.memory_max),
        ),
        live(
            "limits.cpu_max",
            Kind::Number { min: 0.01, max: 4096.0 },
            "CPUs that all its processes together may use, by its cgroup: 1.5 is one and a half.",
            |spec| match spec.limits.cpu_max {
                None => Value::Null,
                Some(thousandths) => (f64::from(thousandths) / 1_000.0).into(),
            },
        ),
        live(
            "limits.pids_max",
            Kind::Count,
            "Processes and threads that it may have in all, by its cgroup.",
            |spec| bound(spec.limits.pids_max),
        ),
    ],
};
