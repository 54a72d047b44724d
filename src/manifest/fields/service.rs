//! The fields of a service itself.

use std::time::Duration;

use serde_json::Value;

use super::{
    Class, Field, Kind, Table, command, dependencies, duration, env_files, port, secrets, set, shell, socket,
    stop_policy,
};
use crate::manifest::choice::{Choice, words};
use crate::manifest::demand::Lifecycle;
use crate::manifest::ports::PortOwner;
use crate::manifest::spec::{OnExeChange, Stdin, WantedState};

const LINE: Kind = Kind::Text { lines: false, pattern: None };

pub(super) static SERVICE: Table = Table {
    name: "",
    doc: "One service: a process that is kept running.",
    is_default: |_, _| false,
    fields: &[
        Field {
            path: "project",
            class: Class::None,
            kind: Kind::Text { lines: false, pattern: Some("^[a-z0-9]+(-[a-z0-9]+)*$") },
            doc: "Part of the identity `project/name`: a change is a removal and a new service.",
            value: |spec| spec.id.project().into(),
        },
        Field {
            path: "command",
            class: Class::Restart,
            kind: Kind::Command { may_be_none: false },
            doc: "What to run, in the foreground: words, or one string that is split into words like a shell \
                  would, but never run by one. Needed.",
            value: |spec| command(&spec.command),
        },
        Field {
            path: "shell",
            class: Class::Restart,
            kind: Kind::Shell,
            doc: "true: `command` is one string for `/bin/sh -c`; \"login\": for `/bin/sh -lc`. The policy \
                  must allow it.",
            value: |spec| shell(&spec.command),
        },
        Field {
            path: "cwd",
            class: Class::Restart,
            kind: Kind::Directory,
            doc: "The working directory. A relative one starts at the project directory, which is the parent \
                  of the manifest directory; `~/` is the home. Of a list the first that exists, and the last is \
                  made if none does, for its user alone; `{{state.work}}` is a directory of the service's own that \
                  is kept until its logs are purged.",
            value: |spec| match &spec.cwd_before {
                None => spec.cwd.as_str().into(),
                Some(before) => before.iter().chain([&spec.cwd]).cloned().map(Value::from).collect(),
            },
        },
        Field {
            path: "env",
            class: Class::Restart,
            kind: Kind::TextTable,
            doc: "Environment variables, all of them strings.",
            value: |spec| spec.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        },
        Field {
            path: "env_file",
            class: Class::Restart,
            kind: Kind::EnvFiles,
            doc: "Files of `KEY=value` lines, read at each start: a path, or a list of paths and \
                  `{ path = \"…\", optional = true }`. Later files win over earlier ones, and `env` over all. A start \
                  waits for a file that is missing or cannot be read; other values are a restart, by content.",
            value: |spec| env_files(&spec.env_file),
        },
        Field {
            path: "secrets",
            class: Class::Restart,
            kind: Kind::Secrets,
            doc: "Variables whose values stand in no manifest: each a table of `file`, a path; `env`, a variable of the \
                  reconciler; `derive`, a label; or `command`, words to run before each start, with `timeout` and \
                  `refresh`; and `optional = true`, and `as = \"file\"` for a file below CREDENTIALS_DIRECTORY in place of a \
                  variable. Kept nowhere, and another value is a restart.",
            value: |spec| secrets(&spec.secrets),
        },
        Field {
            path: "inherit_env",
            class: Class::Restart,
            kind: Kind::Texts,
            doc: "Variables passed on from the environment of the reconciler, by name or by a prefix and `*`. \
                  Only the list counts as a change, never a value. [\"*\"] is all.",
            value: |spec| set(&spec.inherit_env),
        },
        Field {
            path: "stdin",
            class: Class::Restart,
            kind: Kind::Choice(words::<Stdin>),
            doc: "null: /dev/null. open: a pipe that is never written, for programs that end when their input \
                  ends.",
            value: |spec| spec.stdin.word().into(),
        },
        Field {
            path: "user",
            class: Class::Restart,
            kind: LINE,
            doc: "The user to run as. Needs root; HOME, USER, LOGNAME and SHELL come from its passwd entry. \
                  Without it: the user that runs the reconciler.",
            value: |spec| spec.user.clone().into(),
        },
        Field {
            path: "umask",
            class: Class::Restart,
            kind: Kind::Text { lines: false, pattern: Some("^0?[0-7]{1,3}$") },
            doc: "The file mode creation mask, as octal digits in a string.",
            value: |spec| format!("{:03o}", spec.umask).into(),
        },
        Field {
            path: "nice",
            class: Class::Restart,
            kind: Kind::Integer { min: -20, max: 19 },
            doc: "Scheduling priority, from -20 (most) to 19 (least). Without it: that of the reconciler.",
            value: |spec| spec.nice.into(),
        },
        Field {
            path: "oom_score_adj",
            class: Class::Restart,
            kind: Kind::Integer { min: -1000, max: 1000 },
            doc: "How soon it is killed when memory runs out, from -1000 (never) to 1000 (first). Without it: \
                  as the reconciler.",
            value: |spec| spec.oom_score_adj.into(),
        },
        Field {
            path: "depends_on",
            class: Class::Live,
            kind: Kind::Dependencies,
            doc: "Services that it is started after, by `name` in its own project or `project/name`: a list, or a \
                  table with a condition of each. started: up; ready: its health check has passed, without one as \
                  started; completed: ended cleanly. A name alone is ready. With `restart = true` it is restarted \
                  after each new start of the other. What runs is never stopped because another does not.",
            value: |spec| dependencies(&spec.depends_on),
        },
        Field {
            path: "ports",
            class: Class::Restart,
            kind: Kind::Ports,
            doc: "TCP ports by name: \"auto\" for one of the configured range, a number, or a table of `auto = true` or \
                  `port`, `count` (consecutive ones) and `env`. Kept as long as the service is declared, and told in \
                  PORT (the only one, or the one named http) and PORT_<NAME>, or in `env`.",
            value: |spec| spec.ports.iter().map(|(name, declared)| (name.clone(), port(declared))).collect(),
        },
        Field {
            path: "restart_on",
            class: Class::Live,
            kind: Kind::Texts,
            doc: "Files; with `*` and `?` in a name, all in that directory that fit. It is restarted when one of them gets \
                  other content, or comes into being.",
            value: |spec| set(&spec.restart_on),
        },
        Field {
            path: "on_exe_change",
            class: Class::Live,
            kind: Kind::Choice(words::<OnExeChange>),
            doc: "When its executable is replaced on disk: report it as drift, ignore it, or restart.",
            value: |spec| spec.on_exe_change.word().into(),
        },
        Field {
            path: "port_owner",
            class: Class::Live,
            kind: Kind::Choice(words::<PortOwner>),
            doc: "Who may listen on its ports: own, its processes alone; any, whoever does is not looked at.",
            value: |spec| spec.port_owner.word().into(),
        },
        Field {
            path: "sockets",
            class: Class::Restart,
            kind: Kind::Sockets,
            doc: "Listening sockets by name: an IP address with a port, or a path (with a slash; a relative one starts at \
                  the project directory), or a table of `listen` and, for a path, `mode`. Held open for as long as the \
                  service is wanted, while it restarts too, and passed to it as descriptors from 3 on, told in \
                  LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID.",
            value: |spec| {
                spec.sockets.iter().map(|(name, declared)| (name.clone(), socket(declared))).collect()
            },
        },
        Field {
            path: "lifecycle",
            class: Class::Live,
            kind: Kind::Choice(words::<Lifecycle>),
            doc: "For whom it runs. shared: for everybody, as `activation` says. ephemeral: for who leases it (`reconcile \
                  run --with`, `reconcile lease`) and for services that depend on it, alone.",
            value: |spec| spec.lifecycle.word().into(),
        },
        Field {
            path: "stop_policy",
            class: Class::Live,
            kind: Kind::StopPolicy,
            doc: "Of what is started when it is used: when it is stopped. on-release: with the last release, and the end of \
                  the last service that depends on it; { idle = \"30m\" }: when nobody has used it for this long, as by \
                  `activation.idle`; manual: never. Without it: on-release if it is ephemeral, else manual.",
            value: |spec| stop_policy(spec.stop_policy),
        },
        Field {
            path: "state",
            class: Class::Live,
            kind: Kind::Choice(words::<WantedState>),
            doc: "Whether it should be up: running or stopped.",
            value: |spec| spec.state.word().into(),
        },
        Field {
            path: "url",
            class: Class::None,
            kind: LINE,
            doc: "The address shown to consumers and in lists, with its scheme.",
            value: |spec| spec.url.clone().into(),
        },
        Field {
            path: "description",
            class: Class::None,
            kind: Kind::Text { lines: true, pattern: None },
            doc: "For people.",
            value: |spec| spec.description.as_str().into(),
        },
        Field {
            path: "labels",
            class: Class::None,
            kind: Kind::TextTable,
            doc: "For filters, all of them strings.",
            value: |spec| spec.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        },
        Field {
            path: "attrs",
            class: Class::None,
            kind: Kind::AnyTable,
            doc: "Anything, shown to consumers as it is.",
            value: |spec| Value::Object(spec.attrs.clone()),
        },
        Field {
            path: "ttl",
            class: Class::Live,
            kind: Kind::Duration { min: Duration::from_secs(1), max: super::tables::YEAR },
            doc: "Stopped this long after its first start; only `reconcile renew` prolongs it. Without it: \
                  never.",
            value: |spec| spec.ttl.map_or(Value::Null, duration),
        },
        Field {
            path: "start_settle",
            class: Class::Live,
            kind: Kind::Duration { min: Duration::ZERO, max: super::tables::DAY },
            doc: "Without a health check, one that lived this long counts as started.",
            value: |spec| duration(spec.start_settle),
        },
    ],
};
