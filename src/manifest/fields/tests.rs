//! The table of fields against the code: it covers every field of a spec, and each one changes what it says.

use std::collections::BTreeSet;

use super::*;
use crate::manifest::demand::Activation;
use crate::manifest::spec::{Limits, Reload, Restart, Stop};
use crate::manifest::{changed_fields, fingerprint, live_digest, load, parking_digest};

/// For each field: a manifest, and the same one with that field alone changed.
const CHANGES: &[(&str, &str, &str)] = &[
    ("project", "", "project = 'shop'"),
    ("command", "command = ['a', 'b']", "command = ['a', 'c']"),
    ("shell", "command = 'a'", "command = 'a'\nshell = true"),
    ("cwd", "", "cwd = 'sub'"),
    ("env", "env = { A = '1' }", "env = { A = '2' }"),
    ("env_file", "env_file = '.env'", "env_file = [{ path = '.env', optional = true }]"),
    ("secrets", "secrets.A = { file = 'a' }", "secrets.A = { file = 'a', optional = true }"),
    ("inherit_env", "", "inherit_env = ['PATH']"),
    ("stdin", "", "stdin = 'open'"),
    ("user", "", "user = 'www-data'"),
    ("umask", "", "umask = '077'"),
    ("nice", "nice = 1", "nice = 0"),
    ("oom_score_adj", "", "oom_score_adj = -5"),
    ("depends_on", "depends_on = ['a']", "depends_on = { a = 'completed' }"),
    ("ports", "ports = { http = 'auto' }", "ports = { http = { auto = true, count = 2 } }"),
    ("restart_on", "", "restart_on = ['a']"),
    ("on_exe_change", "", "on_exe_change = 'restart'"),
    ("port_owner", "", "port_owner = 'any'"),
    ("sockets", "", "sockets = { a = { listen = '/x', mode = '660' } }"),
    ("lifecycle", "", "lifecycle = 'ephemeral'"),
    ("stop_policy", "lifecycle = 'ephemeral'", "lifecycle = 'ephemeral'\nstop_policy = { idle = '1m' }"),
    ("state", "", "state = 'stopped'"),
    ("url", "", "url = 'http://h'"),
    ("description", "", "description = 'x'"),
    ("labels", "", "labels = { a = 'b' }"),
    ("attrs", "attrs = { a = [1, 2] }", "attrs = { a = [2, 1] }"),
    ("ttl", "ttl = '1h'", "ttl = '2h'"),
    ("start_settle", "", "start_settle = '2s'"),
    ("activation.on", "", "activation.on = 'request'"),
    ("activation.idle", "activation.on = 'request'", "activation = { on = 'request', idle = '1m' }"),
    ("activation.proxy", "sockets.a = '127.0.0.1:80'", "sockets.a = '127.0.0.1:80'\nactivation.proxy = '81'"),
    ("health.type", "health = { port = 1 }", "health = { command = ['a'] }"),
    ("health.url", "health = { url = 'http://h/a' }", "health = { url = 'http://h/b' }"),
    (
        "health.expect_status",
        "health = { url = 'http://h' }",
        "health = { url = 'http://h', expect_status = 204 }",
    ),
    ("health.host", "health = { port = 1 }", "health = { port = 1, host = 'h' }"),
    ("health.port", "health = { port = 1 }", "health = { port = 2 }"),
    ("health.command", "health = { command = ['a'] }", "health = { command = ['b'] }"),
    ("health.shell", "health = { command = 'a' }", "health = { command = 'a', shell = 'login' }"),
    ("health.expect_regex", "health = { command = 'a' }", "health = { command = 'a', expect_regex = 'b+' }"),
    ("health.log", "health = { log = 'a' }", "health = { log = 'b' }"),
    ("health.watchdog", "health = { type = 'notify' }", "health = { watchdog = '10s' }"),
    ("health.notify_fd", "health = { notify_fd = 3 }", "health = { notify_fd = 4 }"),
    ("health.interval", "health = { port = 1 }", "health = { port = 1, interval = '1s' }"),
    ("health.start_interval", "health = { port = 1 }", "health = { port = 1, start_interval = '1s' }"),
    ("health.timeout", "health = { port = 1 }", "health = { port = 1, timeout = '1s' }"),
    ("health.start_timeout", "health = { port = 1 }", "health = { port = 1, start_timeout = '1s' }"),
    ("health.retries", "health = { port = 1 }", "health = { port = 1, retries = 1 }"),
    ("health.on_unhealthy", "health = { port = 1 }", "health = { port = 1, on_unhealthy = 'report' }"),
    ("restart.policy", "", "restart.policy = 'always'"),
    ("restart.success_codes", "", "restart.success_codes = [0, 3]"),
    ("restart.success_signals", "", "restart.success_signals = ['TERM']"),
    ("restart.backoff", "", "restart.backoff = '2s'"),
    ("restart.backoff_factor", "", "restart.backoff_factor = 1.5"),
    ("restart.backoff_max", "", "restart.backoff_max = '2m'"),
    ("restart.max_failures", "", "restart.max_failures = 3"),
    ("restart.window", "", "restart.window = '1m'"),
    ("restart.stable_after", "", "restart.stable_after = '1s'"),
    ("stop.signal", "", "stop.signal = 'INT'"),
    ("stop.signal_to", "", "stop.signal_to = 'leader'"),
    ("stop.grace", "", "stop.grace = '1s'"),
    ("stop.command", "", "stop.command = ['a']"),
    ("stop.shell", "stop.command = 'a'", "stop = { command = 'a', shell = true }"),
    ("reload.on", "", "reload.on = ['a']"),
    ("reload.signal", "reload.on = ['a']", "reload = { on = ['a'], signal = 'USR1' }"),
    ("reload.command", "", "reload.command = ['a']"),
    ("reload.shell", "reload.command = 'a'", "reload = { command = 'a', shell = true }"),
    ("reload.timeout", "", "reload.timeout = '1s'"),
    ("limits.nofile", "", "limits.nofile = 1024"),
    ("limits.nproc", "", "limits.nproc = 'unlimited'"),
    ("limits.core", "", "limits.core = 0"),
    ("limits.fsize", "", "limits.fsize = '1MiB'"),
    ("limits.memlock", "", "limits.memlock = '1MiB'"),
    ("limits.stack", "", "limits.stack = '1MiB'"),
    ("limits.address_space", "limits.address_space = '1MiB'", "limits.address_space = 'unlimited'"),
    ("limits.cpu", "", "limits.cpu = '1h'"),
    ("limits.memory_max", "", "limits.memory_max = '1MiB'"),
    ("limits.cpu_max", "", "limits.cpu_max = 1.5"),
    ("limits.pids_max", "", "limits.pids_max = 64"),
];

fn spec(fields: &str) -> Spec {
    let command = if fields.starts_with("command") { "" } else { "command = ['a']\n" };
    let loaded = load(&format!("[service.web]\n{command}{fields}\n"));
    assert_eq!(loaded.problems, [], "{fields}");
    loaded.services.into_iter().next().expect("one service is declared").spec
}

#[test]
fn every_field_is_changed_alone_by_a_row_above() {
    let rows: Vec<&str> = CHANGES.iter().map(|(path, ..)| *path).collect();
    let table: Vec<&str> = fields().map(|field| field.path).collect();
    assert_eq!(rows, table);
}

#[test]
fn a_changed_field_changes_the_digests_of_its_class_and_no_other() {
    for (path, before, after) in CHANGES {
        let (before, after) = (spec(before), spec(after));
        let changed = changed_fields(&before, &after);
        let (_, class) = *changed.iter().find(|(changed, _)| changed == path).unwrap_or_else(|| {
            panic!("{path} is not among what changed: {changed:?}");
        });
        let alone = changed.len() == 1
            || (*path == "health.type" && changed.iter().all(|(p, _)| p.starts_with("health")));
        assert!(alone, "{path}: {changed:?}");
        assert_eq!(fingerprint(&before) != fingerprint(&after), class == Class::Restart, "{path}");
        assert_eq!(live_digest(&before) != live_digest(&after), class == Class::Live, "{path}");
        let parks = path.starts_with("restart.") || path.starts_with("health.");
        assert_eq!(parking_digest(&before) != parking_digest(&after), parks, "{path}");
    }
}

#[test]
fn every_field_has_the_class_that_it_is_documented_with() {
    let of_class = |class: Class| -> Vec<&str> {
        fields().filter(|field| field.class == class).map(|field| field.path).collect()
    };
    assert_eq!(of_class(Class::None), ["project", "url", "description", "labels", "attrs"]);
    assert_eq!(of_class(Class::Reload), [""; 0]);
    let restart = of_class(Class::Restart);
    let of_service: Vec<&str> = restart.iter().copied().filter(|path| !path.contains('.')).collect();
    assert_eq!(
        of_service,
        [
            "command",
            "shell",
            "cwd",
            "env",
            "env_file",
            "secrets",
            "inherit_env",
            "stdin",
            "user",
            "umask",
            "nice",
            "oom_score_adj",
            "ports",
            "sockets",
        ]
    );
    let in_tables: Vec<&str> = restart.iter().copied().filter(|path| path.contains('.')).collect();
    let told = ["activation.proxy", "health.watchdog", "health.notify_fd"];
    assert!(in_tables.iter().all(|path| path.starts_with("limits.") || told.contains(path)));
    let live = [
        "depends_on",
        "restart_on",
        "on_exe_change",
        "reload.",
        "limits.memory_max",
        "limits.cpu_max",
        "limits.pids_max",
        "port_owner",
        "activation.",
        "lifecycle",
        "stop_policy",
        "state",
        "ttl",
        "start_settle",
        "health.",
        "restart.",
        "stop.",
    ];
    assert!(of_class(Class::Live).iter().all(|path| live.iter().any(|start| path.starts_with(start))));
}

/// The names of all fields of a struct: one that is not named does not compile.
macro_rules! names {
    ($value:expr => $type:ident { $($field:ident),+ $(,)? }) => {{
        let $type { $($field: _),+ } = $value;
        [$(stringify!($field)),+]
    }};
}

#[test]
fn the_table_covers_every_field_of_a_spec() {
    let spec = Spec::baseline();
    let health = spec.health.clone().expect("the baseline has the fields of health");
    let in_table: BTreeSet<&str> = fields().map(|field| field.path).collect();
    let assert_listed = |table: &str, names: &[&str]| {
        for name in names {
            let path = if table.is_empty() { (*name).to_owned() } else { format!("{table}.{name}") };
            assert!(in_table.contains(path.as_str()), "{path} is not in the table of fields");
        }
    };
    let of_restart = names!(&spec.restart => Restart {
        policy, success_codes, success_signals, backoff, backoff_factor, backoff_max, max_failures, window,
        stable_after,
    });
    let of_stop = names!(&spec.stop => Stop { signal, signal_to, grace, command });
    let of_limits = names!(&spec.limits => Limits {
        nofile, nproc, core, fsize, memlock, stack, address_space, cpu, memory_max, cpu_max, pids_max,
    });
    let of_health = names!(&health => Health {
        check, interval, start_interval, timeout, start_timeout, retries, on_unhealthy,
    });
    let of_spec = names!(&spec => Spec {
        id, command, cwd, cwd_before, env, env_file, secrets, inherit_env, stdin, user, umask, nice, oom_score_adj, depends_on, ports, restart_on, reload, on_exe_change, port_owner, sockets, activation, lifecycle, stop_policy, state, url, description, labels,
        attrs, ttl, start_settle, health, restart, stop, limits,
    });
    let of_reload = names!(&spec.reload => Reload { on, signal, command, timeout });
    // What has another shape in a manifest: the identity, the variants of a check, and tables.
    let of_activation = names!(&spec.activation => Activation { on, idle, proxy });
    let reshaped =
        ["id", "cwd_before", "activation", "check", "health", "restart", "stop", "reload", "limits"];
    let plain = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().copied().filter(|name| !reshaped.contains(name)).collect()
    };
    assert_listed("", &plain(&of_spec));
    assert_listed("", &["project"]);
    assert_listed("health", &plain(&of_health));
    assert_listed(
        "health",
        &[
            "type",
            "url",
            "expect_status",
            "host",
            "port",
            "command",
            "shell",
            "expect_regex",
            "log",
            "watchdog",
            "notify_fd",
        ],
    );
    assert_listed("activation", &of_activation);
    assert_listed("restart", &of_restart);
    assert_listed("stop", &of_stop);
    assert_listed("reload", &of_reload);
    assert_listed("limits", &of_limits);
}

#[test]
fn defaults_are_those_of_the_design() {
    let default = |path: &str| {
        with_defaults()
            .find(|(field, _)| field.path == path)
            .map(|(_, value)| value.to_string())
            .unwrap_or_default()
    };
    for (path, value) in [
        ("project", "\"default\""),
        ("shell", "false"),
        ("cwd", "\".\""),
        ("stdin", "\"null\""),
        ("umask", "\"022\""),
        ("reload.command", "[]"),
        ("reload.timeout", "\"10s\""),
        ("ports", "{}"),
        ("port_owner", "\"own\""),
        ("activation.on", "\"always\""),
        ("activation.idle", "null"),
        ("activation.proxy", "null"),
        ("lifecycle", "\"shared\""),
        ("stop_policy", "null"),
        ("state", "\"running\""),
        ("ttl", "null"),
        ("start_settle", "\"1s\""),
        ("health.interval", "\"10s\""),
        ("health.start_interval", "\"250ms\""),
        ("health.timeout", "\"5s\""),
        ("health.start_timeout", "\"1m\""),
        ("health.retries", "3"),
        ("health.on_unhealthy", "\"restart\""),
        ("restart.policy", "\"on-failure\""),
        ("restart.success_codes", "[0]"),
        ("restart.backoff", "\"1s\""),
        ("restart.backoff_factor", "2.0"),
        ("restart.backoff_max", "\"1m\""),
        ("restart.max_failures", "8"),
        ("restart.window", "\"5m\""),
        ("restart.stable_after", "\"1m\""),
        ("stop.signal", "\"TERM\""),
        ("stop.signal_to", "\"group\""),
        ("stop.grace", "\"10s\""),
        ("stop.command", "[]"),
        ("limits.nofile", "null"),
    ] {
        assert_eq!(default(path), value, "{path}");
    }
}

#[test]
fn the_same_thing_written_otherwise_changes_nothing() {
    for (one, other) in [
        ("command = ['a', 'b c']", "command = \"a 'b c'\""),
        ("inherit_env = ['A', 'B']", "inherit_env = ['B', 'A', 'B']"),
        ("umask = '022'", "umask = '0022'"),
        ("start_settle = '90s'", "start_settle = '1m 30s'"),
        ("limits.core = 1024", "limits.core = '1KiB'"),
        ("restart.success_codes = [3, 0]", "restart.success_codes = [0, 3, 3]"),
        ("stop.signal = 'SIGTERM'", "stop.command = []"),
        ("url = 'http://h:1/x'\nhealth = '/y'", "url = 'http://h:1/x'\nhealth.url = 'http://h:1/y'"),
        ("command = 'a'\nshell = false", "command = 'a'"),
        ("depends_on = ['b', 'shop/c']", "depends_on = { 'shop/c' = 'ready', 'default/b' = {} }"),
        ("depends_on = []", "depends_on = {}"),
        ("env_file = 'a'", "env_file = [{ path = 'a', optional = false }]"),
        ("", "env_file = []"),
        ("", "restart_on = []\nreload.on = []\non_exe_change = 'report'"),
        ("ports = { a = 'auto', b = 80 }", "ports = { a = { auto = true, count = 1 }, b = { port = 80 } }"),
    ] {
        let (one, other) = (spec(one), spec(other));
        assert_eq!(fingerprint(&one), fingerprint(&other));
        assert_eq!(changed_fields(&one, &other), []);
    }
}
