//! Every refusal of a spec by itself.

use std::time::Duration;

use super::*;
use crate::identity::ServiceId;
use crate::manifest::{Health, OnUnhealthy, Port, Secret, SecretSource, Severity, Shell};
use crate::policy::machine::{Machine, config_of, one_user};
use crate::policy::{Config, Trust};

fn spec() -> Spec {
    let command = CommandLine::Argv(vec!["node".into(), "server.js".into()]);
    Spec {
        inherit_env: vec!["PATH".into(), "LC_*".into()].into(),
        ..Spec::minimal(ServiceId::parse("shop/web").unwrap(), command)
    }
}

fn health(check: HealthCheck) -> Health {
    let second = Duration::from_secs(1);
    Health {
        check,
        interval: second,
        start_interval: second,
        timeout: second,
        start_timeout: second,
        retries: 1,
        on_unhealthy: OnUnhealthy::Restart,
    }
}

fn http() -> Health {
    health(HealthCheck::Http { url: "http://127.0.0.1/".into(), expect_status: None })
}

fn command_check(command: &str, expect_regex: Option<&str>) -> Health {
    let command = CommandLine::Argv(command.split(' ').map(str::to_owned).collect());
    health(HealthCheck::Command { command, expect_regex: expect_regex.map(str::to_owned) })
}

fn problems_of(policy: &Policy, spec: &Spec, is_git_worktree: bool) -> Vec<Problem> {
    let argv: Vec<_> = spec.command.words().into_iter().map(str::to_owned).collect();
    policy.check(spec, &Facts { argv: &argv, env: &spec.env, sockets: &[], is_git_worktree })
}

/// The codes of what the policy of this text has against `spec`.
fn codes(policy: &str, spec: &Spec) -> Vec<String> {
    let policy = Machine::default().policy(&format!("[policy]\n{policy}\n"));
    let problems = problems_of(&policy, spec, false);
    for problem in &problems {
        assert_eq!((problem.severity, problem.service.as_deref()), (Severity::Refused, Some("web")));
        assert!(problem.help.is_some(), "{problem:?}");
    }
    problems.into_iter().map(|problem| problem.code).collect()
}

fn with_ports(ports: &[(&str, u16, u16, Option<&str>)]) -> Spec {
    let port = |(name, number, count, env): &(&str, u16, u16, Option<&str>)| {
        let number = PortNumber::Fixed(*number);
        ((*name).to_owned(), Port { number, count: *count, env: env.map(str::to_owned) })
    };
    Spec { ports: ports.iter().map(port).collect(), ..spec() }
}

#[test]
fn a_port_in_a_manifest_is_not_below_the_lowest_that_is_allowed() {
    let low = with_ports(&[("http", 80, 1, None)]);
    assert_eq!(codes("min_port = 1024", &low), [code::PORT_TOO_LOW]);
    assert_eq!(codes("min_port = 80", &low), [""; 0]);
    assert_eq!(codes("", &low), [""; 0]);
}

#[test]
fn the_variable_of_a_port_is_one_that_a_manifest_may_set() {
    let exported = |name| with_ports(&[("http", 8080, 1, Some(name))]);
    assert_eq!(codes("", &exported("LD_PRELOAD")), [code::ENV_HIJACK]);
    assert_eq!(codes("env_keys = ['A']", &exported("LISTEN")), [code::ENV_NOT_ALLOWED]);
    assert_eq!(codes("env_keys = ['LISTEN']", &exported("LISTEN")), [""; 0]);
    assert_eq!(
        codes("env_keys = []", &with_ports(&[("http", 8080, 1, None)])),
        [""; 0],
        "we name it ourselves"
    );
}

#[test]
fn no_policy_has_nothing_against_a_plain_service() {
    assert_eq!(codes("", &spec()), [""; 0]);
}

#[test]
fn shells_are_refused_wherever_they_hide() {
    let shell = || CommandLine::Shell { script: "x | y".into(), kind: Shell::Plain };
    let mut all = Spec { command: shell(), ..spec() };
    all.health = Some(health(HealthCheck::Command { command: shell(), expect_regex: None }));
    all.stop.command = Some(shell());
    assert_eq!(codes("", &all), [code::SHELL_NOT_ALLOWED; 3]);
    assert_eq!(codes("allow_shell = true", &all), [""; 0]);
    let one = Policy::in_force(&Config::default(), one_user(&["/usr/bin"]), &[]);
    assert_eq!(problems_of(&one, &all, false), []);
    let configured = config_of("[policy]\nexecutables = ['node']\n");
    let one = Policy::in_force(&configured, one_user(&["/usr/bin"]), &[]);
    assert_eq!(problems_of(&one, &all, false).len(), 3);
}

#[test]
fn users_are_those_listed_and_nobody_is_listed_as_self() {
    let www = Spec { user: Some("www-data".into()), ..spec() };
    assert_eq!(codes("users = ['www-data']", &www), [""; 0]);
    assert_eq!(codes("users = ['app']", &www), [code::USER_NOT_ALLOWED]);
    assert_eq!(codes("users = ['www-data']", &spec()), [code::USER_NOT_ALLOWED]);
    assert_eq!(codes("users = ['@self']", &spec()), [""; 0]);
    assert_eq!(codes("", &www), [""; 0]);
}

#[test]
fn no_manifest_by_others_puts_its_service_before_all_else() {
    let eager = Spec { nice: Some(-1), oom_score_adj: Some(-1), ..spec() };
    assert_eq!(codes("", &eager), [code::PRIORITY_NOT_ALLOWED; 2]);
    assert_eq!(codes("allow_priority = true", &eager), [""; 0]);
    let modest = Spec { nice: Some(19), oom_score_adj: Some(0), ..spec() };
    assert_eq!(codes("", &modest), [""; 0]);
    let one = Policy::in_force(&Config::default(), one_user(&["/usr/bin"]), &[]);
    assert_eq!(problems_of(&one, &eager, false), [], "the kernel has the last word there");
}

#[test]
fn a_ttl_is_wanted_or_bounded_and_a_default_will_do() {
    let ttl = |hours: u64| Spec { ttl: Some(Duration::from_secs(hours * 3600)), ..spec() };
    assert_eq!(codes("max_ttl = '4h'", &ttl(4)), [""; 0]);
    assert_eq!(codes("max_ttl = '4h'", &ttl(5)), [code::TTL_TOO_LONG]);
    assert_eq!(codes("max_ttl = '4h'", &spec()), [code::TTL_REQUIRED], "no TTL is longer than any");
    assert_eq!(codes("require = ['ttl']", &spec()), [code::TTL_REQUIRED]);
    assert_eq!(codes("require = ['ttl']", &ttl(1)), [""; 0]);
    assert_eq!(codes("require = ['ttl']\ndefault_ttl = '1h'", &spec()), [""; 0]);
    let policy = Machine::default().policy("[policy]\ndefault_ttl = '1h'\n");
    assert_eq!(policy.effective_ttl(&spec()), Some(Duration::from_secs(3600)));
    assert_eq!(policy.effective_ttl(&ttl(2)), Some(Duration::from_secs(7200)));
}

#[test]
fn what_must_be_declared_is_asked_for() {
    assert_eq!(codes("require = ['health']", &spec()), [code::HEALTH_REQUIRED]);
    assert_eq!(codes("require = ['health']", &Spec { health: Some(http()), ..spec() }), [""; 0]);
    assert_eq!(codes("require = ['limits']", &spec()), [code::LIMITS_REQUIRED]);
    let limits = Limits { nofile: Some(64), ..Limits::default() };
    assert_eq!(codes("require = ['limits']", &Spec { limits, ..spec() }), [""; 0]);
    assert_eq!(codes("require = ['git-workdir']", &spec()), [code::GIT_WORKDIR_REQUIRED]);
    let policy = Machine::default().policy("[policy]\nrequire = ['git-workdir']\n");
    assert_eq!(problems_of(&policy, &spec(), true), []);
}

#[test]
fn health_checks_are_made_often_enough() {
    let slow =
        Health { interval: Duration::from_secs(700), start_timeout: Duration::from_secs(4000), ..http() };
    let slow = Spec { health: Some(slow), ..spec() };
    let policy = "max_health_interval = '10m'\nmax_start_timeout = '1h'";
    assert_eq!(codes(policy, &slow), [code::HEALTH_INTERVAL_TOO_LONG, code::START_TIMEOUT_TOO_LONG]);
    assert_eq!(codes(policy, &Spec { health: Some(http()), ..spec() }), [""; 0]);
}

#[test]
fn the_environment_is_held_to_its_lists() {
    let with = |key: &str| Spec { env: [(key.to_owned(), String::new())].into(), ..spec() };
    assert_eq!(codes("", &with("LD_PRELOAD")), [code::ENV_HIJACK]);
    assert_eq!(codes("", &with("PATH")), [code::ENV_HIJACK]);
    assert_eq!(codes("env_keys = ['LD_PRELOAD']", &with("LD_PRELOAD")), [""; 0]);
    assert_eq!(codes("env_keys = ['PORT']", &with("HOST")), [code::ENV_NOT_ALLOWED]);
    assert_eq!(codes("env_keys = ['PORT']\nenv_prefixes = ['HO']", &with("HOST")), [""; 0]);
    let inherits = Spec { inherit_env: vec!["PATH".into(), "AWS_*".into(), "TOKEN".into()].into(), ..spec() };
    assert_eq!(codes("", &inherits), [code::INHERIT_NOT_ALLOWED; 2]);
    assert_eq!(codes("env_keys = ['TOKEN']", &inherits), [code::INHERIT_NOT_ALLOWED]);
    assert_eq!(codes("env_keys = ['TOKEN']\nenv_prefixes = ['AWS_']", &inherits), [""; 0]);
    let source = SecretSource::Env("TOKEN".into());
    let secrets = [(
        "A".to_owned(),
        Secret { source, optional: true, given_as: crate::manifest::SecretForm::Variable },
    )]
    .into();
    let given = Spec { secrets, ..spec() };
    assert_eq!(codes("", &given), [code::INHERIT_NOT_ALLOWED]);
    assert_eq!(codes("env_keys = ['TOKEN']", &given), [""; 0]);

    let one = Policy::in_force(&Config::default(), one_user(&["/usr/bin"]), &[]);
    assert_eq!(problems_of(&one, &inherits, false), []);
    assert_eq!(problems_of(&one, &with("PATH"), false), []);
}

#[test]
fn the_lines_of_an_environment_refusal_allow_it() {
    for (policy, key) in [("", "NODE_OPTIONS"), ("", "PATH"), ("env_keys = ['PORT']", "HOST")] {
        let spec =
            Spec { env: [(key.to_owned(), String::new()), ("PORT".into(), "1".into())].into(), ..spec() };
        let refusing = Machine::default().policy(&format!("[policy]\n{policy}\n"));
        let help = problems_of(&refusing, &spec, false).remove(0).help.unwrap();
        let lines: Vec<_> = help.split('`').filter(|part| part.starts_with("env_")).collect();
        assert_eq!(codes(&lines.join("\n"), &spec), [""; 0], "{help}");
    }
}

#[test]
fn a_ceiling_that_is_silent_leaves_what_is_inherited_to_the_configuration() {
    let (config, _) =
        config_of("[policy]\nenv_keys = ['TOKEN']\n").under(config_of("[policy]\nmax_ttl = '4h'\n"));
    let policy = Policy::in_force(&config, Trust::Strangers, &[]);
    let spec =
        Spec { ttl: Some(Duration::from_secs(60)), inherit_env: vec!["TOKEN".into()].into(), ..spec() };
    assert_eq!(problems_of(&policy, &spec, false), []);
    let all = Spec { inherit_env: vec!["*".into()].into(), ..spec };
    assert_eq!(problems_of(&policy, &all, false).len(), 1);
}

#[test]
fn both_the_ceilings_lists_and_ones_own_hold_for_the_environment() {
    let ceiling = config_of("[policy]\nenv_keys = ['PORT', 'HOST']\n");
    let (config, _) = config_of("[policy]\nenv_keys = ['PORT', 'DEBUG']\n").under(ceiling);
    let policy = Policy::in_force(&config, Trust::Strangers, &[]);
    let keys = ["DEBUG", "HOST", "PORT"].map(|key| (key.to_owned(), String::new()));
    let spec = Spec { env: keys.into(), ..spec() };
    assert_eq!(problems_of(&policy, &spec, false).len(), 2);
}

#[test]
fn caps_hold_at_their_very_figure() {
    let long = "x".repeat(11);
    let argv = |words: &[&str]| Spec {
        command: CommandLine::Argv(words.iter().map(|&word| word.to_owned()).collect()),
        ..spec()
    };
    let env = |pairs: &[(&str, &str)]| Spec {
        env: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..spec()
    };
    let health = |health| Spec { health: Some(health), ..spec() };
    let attrs = serde_json::json!({ "a": "12345" }).as_object().cloned().unwrap();
    for (cap, code, over) in [
        ("command_length = 10", code::COMMAND_TOO_LONG, argv(&[&long])),
        ("arguments = 2", code::TOO_MANY_ARGUMENTS, argv(&["a", "b", "c", "d"])),
        ("argument_length = 10", code::ARGUMENT_TOO_LONG, argv(&["a", &long])),
        ("cwd_length = 10", code::CWD_TOO_LONG, Spec { cwd: long.clone(), ..spec() }),
        ("env_keys = 1", code::TOO_MANY_ENV_KEYS, env(&[("A", ""), ("B", "")])),
        ("env_value_length = 10", code::ENV_VALUE_TOO_LONG, env(&[("A", &long)])),
        ("env_bytes = 11", code::ENV_TOO_LARGE, env(&[("A", &long)])),
        ("attrs_bytes = 12", code::ATTRS_TOO_LARGE, Spec { attrs, ..spec() }),
        ("health_command_length = 2", code::HEALTH_COMMAND_TOO_LONG, health(command_check("a b", None))),
        ("regex_length = 10", code::REGEX_TOO_LONG, health(command_check("a", Some(&long)))),
        ("ports = 4", code::TOO_MANY_PORTS, with_ports(&[("http", 8080, 1, None), ("agent", 9000, 4, None)])),
    ] {
        assert_eq!(codes(&format!("[policy.caps]\n{cap}"), &over), [code], "{cap}");
        let (key, figure) = cap.split_once(" = ").unwrap();
        let one_more = format!("[policy.caps]\n{key} = {}", figure.parse::<u64>().unwrap() + 1);
        assert_eq!(codes(&one_more, &over), [""; 0], "{one_more}");
    }
}

#[test]
fn services_are_counted_per_file_and_in_all() {
    let policy = Machine::default().policy("[policy.caps]\nservices_per_file = 5\nservices = 100\n");
    assert_eq!(policy.check_file(5), None);
    assert_eq!(policy.check_file(6).unwrap().code, code::TOO_MANY_SERVICES_IN_FILE);
    assert_eq!(policy.check_total(100), None);
    assert_eq!(policy.check_total(101).unwrap().code, code::TOO_MANY_SERVICES);
    assert_eq!(Machine::default().policy("").check_total(1_000_000), None);
}

#[test]
fn everything_is_reported_at_once() {
    let policy = "require = ['health', 'limits']\nmax_ttl = '1h'\nusers = []";
    assert_eq!(codes(policy, &spec()).len(), 4);
}
