//! The lists that hold without a word from the operator, and the figures of the presets.
//!
//! An allowlist of runtimes is no sandbox: whoever may run `python` may run anything as that user. It keeps
//! manifests to what the operator expects, and makes the rest a line in the configuration.

use std::time::Duration;

use super::config::{Cap, OnExecAway, Requirement, Rules};
use super::executable::{ExecEntry, NamedSet};

/// Where commands are looked for if neither the operator nor one trusted user says otherwise.
pub const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Runtimes, their package runners, and servers.
pub(super) const RUNTIMES: &str = "
    node nodejs npm npx pnpm pnpx yarn yarnpkg corepack bun bunx deno python python3 pypy pypy3 uv
    uvx pipx poetry pipenv pdm hatch gunicorn uvicorn hypercorn daphne celery flask streamlit
    jupyter java mvn gradle sbt dotnet erl elixir mix iex ruby bundle rake rails puma php php-fpm
    composer perl lua luajit go cargo Rscript julia dart swift zig nginx apache2 httpd caddy
    traefik haproxy envoy varnishd redis-server redis-cli redis-sentinel valkey-server valkey-cli memcached postgres pg_isready
    mysqld mariadbd mongod rabbitmq-server nats-server mosquitto etcd consul prometheus grafana
    grafana-server minio clickhouse-server influxd dnsmasq coredns ollama sleep true false echo cat
    tail";

/// Allowed as the interpreter of an allowed script, and not as a command.
pub(super) const SHELLS: &str = "sh bash dash ksh zsh";

/// Allowed as well where one user owns everything: his own scripts could run them anyway.
pub(super) const OWN_TOOLS: &str = "sh bash dash ksh zsh fish make just task docker podman";

/// What agents start: runtimes, package runners and build tools.
pub(super) const AGENTS: &str = "
    node npm npx pnpm yarn bun bunx deno python python3 uv uvx docker adb gradle mvn java pwsh
    dotnet go cargo ruby bundle php";

const AGENT_ENV_KEYS: &str = "
    NODE_ENV PORT HOST HOSTNAME DEBUG LOG_LEVEL CI TZ LANG NO_COLOR FORCE_COLOR BROWSER
    PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE";

const AGENT_ENV_PREFIXES: &str = "
    VITE_ NEXT_ NUXT_ REACT_APP_ EXPO_ GATSBY_ VUE_APP_ PUBLIC_ STORYBOOK_ FLASK_ DJANGO_ UVICORN_
    npm_config_";

const AGENT_CAPS: &[(Cap, u64)] = &[
    (Cap::ServicesPerFile, 5),
    (Cap::CommandLength, 200),
    (Cap::Arguments, 64),
    (Cap::ArgumentLength, 500),
    (Cap::CwdLength, 500),
    (Cap::EnvKeys, 32),
    (Cap::EnvValueLength, 1000),
    (Cap::AttrsBytes, 2048),
    (Cap::HealthCommandLength, 1000),
    (Cap::RegexLength, 500),
    (Cap::Ports, 20),
];

/// The rules of `preset = "agents"`: manifests written by agents that are not trusted.
pub(super) fn agents() -> Rules {
    const MINUTE: Duration = Duration::from_secs(60);
    Rules {
        executables: Some(vec![ExecEntry::Set(NamedSet::Agents)]),
        search_path: None,
        env_keys: Some(AGENT_ENV_KEYS.split_ascii_whitespace().map(str::to_owned).collect()),
        env_prefixes: Some(AGENT_ENV_PREFIXES.split_ascii_whitespace().map(str::to_owned).collect()),
        caps: AGENT_CAPS.iter().copied().collect(),
        max_ttl: Some(1440 * MINUTE),
        default_ttl: Some(240 * MINUTE),
        max_lease: Some(1440 * MINUTE),
        max_health_interval: Some(10 * MINUTE),
        max_start_timeout: Some(60 * MINUTE),
        require: Some([Requirement::Health, Requirement::Ttl, Requirement::GitWorkdir].into()),
        allow_shell: Some(false),
        allow_priority: Some(false),
        min_port: Some(1024),
        users: None,
        on_exec_away: Some(OnExecAway::Stop),
    }
}
