//! What is accepted, what is reported and where. The table below has an input for every code.

use super::*;
use crate::manifest::diagnostic::Severity;
use crate::manifest::ports::CheckPort;
use crate::manifest::spec::{CommandLine, Condition, Dependency, HealthCheck, Shell, SignalName};
use std::time::Duration;

/// A code, and the fields of a service, or a whole text, that have it as their one problem.
const ONE_PROBLEM: &[(&str, &str)] = &[
    (code::SYNTAX, "cwd = "),
    (code::SYNTAX, "description = 'a\u{0}b'"),
    (code::DUPLICATE_KEY, "cwd = 'a'\ncwd = 'b'"),
    (code::DUPLICATE_SERVICE, "[service.web]"),
    (code::UNKNOWN_KEY, "wants = ['db']"),
    (code::UNKNOWN_KEY, "depends_on = { db = { conditoin = 'ready' } }"),
    (code::UNKNOWN_KEY, "stop.graze = '1s'"),
    (code::UNKNOWN_KEY, "[services.web]"),
    (code::MISSING_KEY, "[service.other]"),
    (code::MISSING_KEY, "health = '/health'"),
    (code::MISSING_KEY, "health = {}"),
    (code::MISSING_KEY, "health = { type = 'http' }"),
    (code::MISSING_KEY, "health = { host = 'h' }"),
    (code::WRONG_TYPE, "cwd = 1"),
    (code::WRONG_TYPE, "start_settle = 10"),
    (code::WRONG_TYPE, "env = { PORT = 8080 }"),
    (code::WRONG_TYPE, "env = ['PORT=8080']"),
    (code::WRONG_TYPE, "labels = []"),
    (code::WRONG_TYPE, "attrs = 1"),
    (code::WRONG_TYPE, "inherit_env = '*'"),
    (code::WRONG_TYPE, "umask = 0o022"),
    (code::WRONG_TYPE, "nice = '5'"),
    (code::WRONG_TYPE, "shell = 'bash'"),
    (code::WRONG_TYPE, "restart = 'always'"),
    (code::WRONG_TYPE, "restart.success_codes = 0"),
    (code::WRONG_TYPE, "restart.success_codes = ['0']"),
    (code::WRONG_TYPE, "restart.backoff_factor = '2'"),
    (code::WRONG_TYPE, "health = 1"),
    (code::WRONG_TYPE, "limits.nofile = 1.5"),
    (code::WRONG_TYPE, "limits.core = false"),
    (code::WRONG_TYPE, "stop.command = ['a', 1]"),
    (code::WRONG_TYPE, "[service]\nother = 1"),
    (code::WRONG_TYPE, "depends_on = 'db'"),
    (code::WRONG_TYPE, "depends_on = [1]"),
    (code::WRONG_TYPE, "depends_on = { db = true }"),
    (code::WRONG_TYPE, "depends_on = { db = { restart = 'yes' } }"),
    (code::WRONG_TYPE, "depends_on = { db = { condition = 1 } }"),
    (code::CONFLICTING_KEYS, "depends_on = ['db', 'default/db']"),
    (code::WRONG_TYPE, "ports = 8080"),
    (code::WRONG_TYPE, "ports.http = { port = '8080' }"),
    (code::WRONG_TYPE, "ports.http = { auto = 'yes' }"),
    (code::WRONG_TYPE, "ports.http = { auto = true, env = 1 }"),
    (code::WRONG_TYPE, "health = { port = true }"),
    (code::UNKNOWN_KEY, "ports.http = { auto = true, cuont = 2 }"),
    (code::MISSING_KEY, "ports.http = { count = 2 }"),
    (code::CONFLICTING_KEYS, "ports.http = { auto = true, port = 80 }"),
    (code::CONFLICTING_KEYS, "ports = { a = 81, b = { port = 80, count = 2 } }"),
    (code::CONFLICTING_KEYS, "ports = { a-1 = 'auto', a = { auto = true, count = 2 } }"),
    (code::CONFLICTING_KEYS, "ports = { a = { auto = true, env = 'P' }, b = { auto = true, env = 'P' } }"),
    (code::BAD_NAME, "ports = { Http = 'auto' }"),
    (code::BAD_PORT, "ports.http = 'any'"),
    (code::BAD_PORT, "health.port = 'http'"),
    (code::BAD_PORT, "env = { P = 'x' }\nhealth.port = '{{env.P}}'"),
    (code::OUT_OF_RANGE, "limits.memory_max = '512B'"),
    (code::OUT_OF_RANGE, "ports.http = 0"),
    (code::OUT_OF_RANGE, "ports.http = 65536"),
    (code::OUT_OF_RANGE, "ports.http = { auto = true, count = 101 }"),
    (code::OUT_OF_RANGE, "ports.http = { port = 65535, count = 2 }"),
    (code::BAD_ENV_NAME, "ports.http = { auto = true, env = 'A B' }"),
    (code::RESERVED_ENV, "ports.http = { auto = true, env = 'RECONCILE_SPAWN' }"),
    (code::UNKNOWN_TEMPLATE, "ports.http = 'auto'\ncwd = '{{ports.htpt}}'"),
    (code::UNKNOWN_TEMPLATE, "ports.http = 'auto'\ncwd = '{{ports.http[1]}}'"),
    (code::UNKNOWN_TEMPLATE, "attrs = { a = { b = ['{{ports.http}}'] } }"),
    (code::BAD_TEMPLATE, "attrs = { a = '{{name' }"),
    (code::CONFLICTING_KEYS, "shell = true"),
    (code::CONFLICTING_KEYS, "health = { port = 1, command = ['a'] }"),
    (code::CONFLICTING_KEYS, "health = { type = 'tcp', port = 1, url = 'http://h' }"),
    (code::CONFLICTING_KEYS, "restart.backoff = '5m'"),
    (code::CONFLICTING_KEYS, "stop.shell = true"),
    (code::BAD_NAME, "[service.Web_2]\ncommand = ['a']"),
    (code::BAD_NAME, "[service.'']\ncommand = ['a']"),
    (code::BAD_NAME, "project = 'My Shop'"),
    (code::BAD_NAME, "depends_on = ['a/b/c']"),
    (code::BAD_NAME, "depends_on = { DB = 'ready' }"),
    (code::DEPENDENCY_CYCLE, "depends_on = ['default/web']"),
    (code::BAD_CHOICE, "state = 'runing'"),
    (code::BAD_CHOICE, "stdin = 'tty'"),
    (code::BAD_CHOICE, "depends_on = { db = 'healthy' }"),
    (code::BAD_CHOICE, "restart.policy = 'unless-stopped'"),
    (code::OUT_OF_RANGE, "nice = 20"),
    (code::OUT_OF_RANGE, "nice = 9999999999999999999999"),
    (code::OUT_OF_RANGE, "health = { port = 0 }"),
    (code::OUT_OF_RANGE, "health = { url = 'http://h', expect_status = 99 }"),
    (code::OUT_OF_RANGE, "restart.backoff_factor = 0.5"),
    (code::OUT_OF_RANGE, "restart.backoff_factor = nan"),
    (code::OUT_OF_RANGE, "restart.success_codes = [256]"),
    (code::OUT_OF_RANGE, "limits.nofile = 0"),
    (code::BAD_DURATION, "ttl = '4'"),
    (code::BAD_DURATION, "ttl = 'soon'"),
    (code::BAD_DURATION, "ttl = '18446744073709551615s 1000ms'"),
    (code::DURATION_OUT_OF_RANGE, "ttl = '0s'"),
    (code::DURATION_OUT_OF_RANGE, "ttl = '2 years'"),
    (code::DURATION_OUT_OF_RANGE, "health = { port = 1, interval = '0s' }"),
    (code::DURATION_OUT_OF_RANGE, "health = { port = 1, timeout = '0s' }"),
    (code::DURATION_OUT_OF_RANGE, "restart.backoff = '0s'"),
    (code::DURATION_OUT_OF_RANGE, "limits.cpu = '1500ms'"),
    (code::BAD_SIZE, "limits.core = '10'"),
    (code::BAD_SIZE, "limits.core = '10mb'"),
    (code::BAD_SIZE, "limits.core = -1"),
    (code::BAD_SIGNAL, "stop.signal = 'SIGTREM'"),
    (code::BAD_SIGNAL, "stop.signal = 'STOP'"),
    (code::BAD_SIGNAL, "reload.signal = 'KILL'"),
    (code::BAD_PATTERN, "restart_on = ['conf/*/web.yml']"),
    (code::BAD_SIGNAL, "restart.success_signals = ['TERM', 'x']"),
    (code::BAD_UMASK, "umask = '099'"),
    (code::BAD_UMASK, "umask = '1000'"),
    (code::BAD_USER, "user = 'a:b'"),
    (code::BAD_ENV_NAME, "env = { 'A=B' = 'c' }"),
    (code::BAD_ENV_NAME, "env = { '' = 'c' }"),
    (code::BAD_ENV_NAME, "inherit_env = ['A*B']"),
    (code::RESERVED_ENV, "env = { RECONCILE_SPAWN = 'x' }"),
    (code::BAD_CHARACTER, "env = { A = \"a\\u0000b\" }"),
    (code::BAD_CHARACTER, "env = { A = \"a\\u001bb\" }"),
    (code::BAD_CHARACTER, "cwd = \"a\\nb\""),
    (code::BAD_CHARACTER, "stop.command = [\"a\\u0000b\"]"),
    (code::EMPTY, "cwd = ''"),
    (code::EMPTY, "user = ' '"),
    (code::EMPTY, "stop.command = ''"),
    (code::EMPTY, "stop.command = ['', 'a']"),
    (code::EMPTY, "env = { A = '' }\nstop.command = ['{{env.A}}']"),
    (code::EMPTY, "env = { A = '' }\ncwd = '{{env.A}}'"),
    (code::EMPTY, "labels = { '' = 'a' }"),
    (code::BAD_COMMAND, "stop.command = \"a 'b\""),
    (code::NEEDS_SHELL, "stop.command = 'a && b'"),
    (code::NEEDS_SHELL, "stop.command = 'A=1 b'"),
    (code::CONFLICTING_KEYS, "activation.on = 'connection'"),
    (code::CONFLICTING_KEYS, "activation.idle = '1m'"),
    (code::BAD_CHOICE, "lifecycle = 'once'"),
    (code::BAD_CHOICE, "lifecycle = 'ephemeral'\nstop_policy = '30m'"),
    (code::WRONG_TYPE, "lifecycle = 'ephemeral'\nstop_policy = 30"),
    (code::WRONG_TYPE, "lifecycle = 'ephemeral'\nstop_policy = { idle = 30 }"),
    (code::UNKNOWN_KEY, "lifecycle = 'ephemeral'\nstop_policy = { after = '1m' }"),
    (code::EMPTY, "lifecycle = 'ephemeral'\nstop_policy = {}"),
    (code::DURATION_OUT_OF_RANGE, "lifecycle = 'ephemeral'\nstop_policy = { idle = '1ms' }"),
    (code::CONFLICTING_KEYS, "stop_policy = 'on-release'"),
    (
        code::CONFLICTING_KEYS,
        "sockets.a = '127.0.0.1:80'\nactivation.proxy = '81'\nstop_policy = 'on-release'",
    ),
    (code::CONFLICTING_KEYS, "lifecycle = 'ephemeral'\nactivation.on = 'request'"),
    (code::CONFLICTING_KEYS, "activation = { on = 'request', idle = '1m' }\nstop_policy = 'manual'"),
    (code::CONFLICTING_KEYS, "sockets = { a = '127.0.0.1:80', b = '127.0.0.1:81' }\nactivation.proxy = '82'"),
    (code::BAD_ADDRESS, "sockets.a = '127.0.0.1:80'\nactivation.proxy = 'localhost:82'"),
    (code::CONFLICTING_KEYS, "sockets.a = '127.0.0.1:80'\nactivation.proxy = '80'"),
    (code::CONFLICTING_KEYS, "sockets.a = '0.0.0.0:80'\nactivation.proxy = '80'"),
    (code::BAD_ADDRESS, "sockets.http = 'localhost:8080'"),
    (code::BAD_URL, "url = '127.0.0.1:8080'"),
    (code::BAD_URL, "url = 'http://h'\nhealth = 'health'"),
    (code::BAD_URL, "health = { url = 'tcp://h' }"),
    (code::BAD_URL, "env = { PORT = 'x' }\nurl = 'http://h:{{env.PORT}}'"),
    (code::BAD_URL, "url = 'redis://h'\nhealth = '/health'"),
    (code::BAD_HOST, "health = { host = 'a b', port = 1 }"),
    (code::BAD_REGEX, "health = { command = 'a', expect_regex = '(' }"),
    (code::BAD_REGEX, "health = { command = 'a', expect_regex = '(a{1000}){1000}' }"),
    (code::BAD_ATTRS, "attrs = { a = [nan] }"),
    (code::BAD_ATTRS, "attrs = { a = { b = 9999999999999999999999 } }"),
    (code::BAD_TEMPLATE, "cwd = 'a{{name'"),
    (code::BAD_TEMPLATE, "stop.command = 'a {{ name }}'"),
    (code::UNKNOWN_TEMPLATE, "cwd = '{{nam}}'"),
    (code::UNKNOWN_TEMPLATE, "url = 'http://h:{{env.PORT}}'"),
    (code::UNKNOWN_TEMPLATE, "stop.command = ['docker', 'ps', '--format', '{{.Names}}']"),
    (code::NO_TEMPLATE, "template = 't'"),
    (code::MISSING_VAR, "vars = {}\ncwd = '{{vars.x}}'"),
    (code::UNKNOWN_VAR, "vars = { x = 1 }"),
    (code::WRONG_TYPE, "[template]\nt = 1"),
    (code::WRONG_TYPE, "template = 1"),
    (code::WRONG_TYPE, "vars = 1"),
    (code::BAD_NAME, "vars = { 'a b' = 1 }"),
    (code::UNKNOWN_KEY, "[templates.t]"),
    (code::TEMPLATE_CYCLE, "cwd = '{{cwd}}'"),
    (code::TEMPLATE_CYCLE, "env = { A = '{{env.B}}', B = 'x{{env.A}}' }"),
    (code::TEMPLATE_CYCLE, "env = { A = '{{cwd}}' }\ncwd = '{{env.A}}'"),
];

/// The text of a row: a service with these fields, and a good command unless a command is given.
fn text_of(row: &str) -> String {
    format!("[service.web]\ncommand = ['a']\n{row}\n")
}

fn codes(text: &str) -> Vec<String> {
    load(text).problems.into_iter().map(|problem| problem.code).collect()
}

#[test]
fn every_code_has_an_input_with_that_problem_alone() {
    for (code, row) in ONE_PROBLEM {
        assert_eq!(codes(&text_of(row)), [*code], "{row}");
    }
    let large =
        [deep(), crowded(), many(), doubling()].iter().flat_map(|text| codes(text)).collect::<Vec<_>>();
    let shown =
        |code: &&str| ONE_PROBLEM.iter().any(|(shown, _)| shown == code) || large.iter().any(|c| c == code);
    let silent: Vec<&&str> = code::ALL.iter().filter(|code| !shown(code)).collect();
    assert!(silent.is_empty(), "no input has {silent:?}");
}

fn deep() -> String {
    text_of(&format!("attrs = {{ a = {} }}", "[".repeat(100)))
}

fn crowded() -> String {
    text_of(&format!("attrs = {{ a = [{}] }}", "{},".repeat(60_000)))
}

fn many() -> String {
    (0..150).map(|n| format!("[service.a{n}]\n")).collect()
}

fn doubling() -> String {
    let doubled = (1..30).map(|n| format!("A{n} = '{{{{env.A{}}}}}{{{{env.A{}}}}}'\n", n - 1, n - 1));
    text_of(&format!("[service.web.env]\nA0 = 'x'\n{}", doubled.collect::<String>()))
}

#[test]
fn texts_that_would_grow_without_bound_are_one_problem() {
    assert_eq!(codes(&deep()), [code::TOO_DEEP]);
    assert_eq!(codes(&crowded()), [code::TOO_MANY_TABLES]);
    assert_eq!(codes(&doubling()), [code::TEMPLATE_TOO_LARGE]);
    let chain = (1..20_000).map(|n| format!("A{n} = '{{{{env.A{}}}}}'\n", n - 1)).collect::<String>();
    let problems = codes(&text_of(&format!("[service.web.env]\nA0 = ''\n{chain}")));
    assert!(problems.iter().all(|code| code == code::TEMPLATE_TOO_LARGE), "{problems:?}");
    let wide = (0..20).map(|n| format!("A{n} = '{}'\n", "x".repeat(60_000))).collect::<String>();
    assert_eq!(codes(&text_of(&format!("[service.web.env]\n{wide}"))), [code::TEMPLATE_TOO_LARGE]);
}

#[test]
fn a_long_list_of_problems_ends_with_their_number() {
    let problems = load(&many()).problems;
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].code, code::TOO_MANY_PROBLEMS);
    assert_eq!(problems[100].message, "50 more problems are not listed");
}

#[test]
fn every_problem_of_a_file_is_reported_with_its_place() {
    let text = "\
# Täglich
[service.web]
comand = ['node']
cwd = 7
health = { interval = '0s', url = 'localhost' }

[service.api]
command = 'node x | tee log'
[service.api.stop]
signal = 'TREM'
";
    let found: Vec<(usize, usize, String, Option<String>)> = load(text)
        .problems
        .into_iter()
        .map(|problem| {
            let span = problem.span.expect("each has its place");
            (span.line, span.column, problem.code, problem.service)
        })
        .collect();
    let expected = [
        (2, 10, code::MISSING_KEY, "web"),
        (3, 1, code::UNKNOWN_KEY, "web"),
        (4, 7, code::WRONG_TYPE, "web"),
        (5, 23, code::DURATION_OUT_OF_RANGE, "web"),
        (5, 35, code::BAD_URL, "web"),
        (8, 19, code::NEEDS_SHELL, "api"),
        (10, 10, code::BAD_SIGNAL, "api"),
    ];
    let expected = expected
        .map(|(line, column, code, service)| (line, column, code.to_owned(), Some(service.to_owned())));
    assert_eq!(found, expected);
}

fn only_problem(row: &str) -> Problem {
    let mut problems = load(&text_of(row)).problems;
    assert_eq!(problems.len(), 1, "{row}: {problems:?}");
    problems.remove(0)
}

#[test]
fn help_says_how_to_mend_it() {
    for (row, help) in [
        ("start_settle = 10", "give it a unit: `start_settle = \"10s\"`"),
        ("env = { PORT = 8080 }", "write it as \"8080\""),
        ("env = { DEBUG = true }", "write it as \"true\""),
        ("restart = 'always'", "write it as `restart = { policy = \"always\" }`"),
        ("ports.http = '8080'", "write it without quotes: `http = 8080`"),
        ("ports = 'auto'", "name it, like `ports = { http = \"auto\" }`"),
        ("ports.http = 'auto'\ncwd = '{{ports.htpt}}'", "did you mean `http`?"),
        ("health.port = 'http'", "declare it: `ports = { http = \"auto\" }`"),
        ("health.port = '8080'", "write a number without quotes: `port = 8080`"),
        ("umask = 0o022", "write it as `umask = \"022\"`"),
        ("inherit_env = '*'", "write it as [\"*\"]"),
        ("nice = '5'", "write it without quotes: `nice = 5`"),
        ("state = 'runing'", "did you mean `running`? It takes running, stopped"),
        ("stop.signal = 'SIGTREM'", "did you mean `TERM`?"),
        ("[service.My_Api]\ncommand = ['a']", "write it as `my-api`"),
        ("[web]\ncommand = ['a']", "did you mean `[service.web]`?"),
        ("env = { PORT = '1' }\ncwd = '{{env.PROT}}'", "did you mean `{{env.PORT}}`?"),
        (
            "stop.command = 'PORT=80 node x'",
            "write `env = { PORT = \"80\" }` and `command = [\"node\", \"x\"]`",
        ),
    ] {
        assert_eq!(only_problem(row).help.as_deref(), Some(help), "{row}");
    }
}

#[test]
fn places_point_into_a_text_that_is_written_without_escapes() {
    let part_of = |row: &str| {
        let text = text_of(row);
        let span = only_problem(row).span.expect("it has its place");
        text[span.start..span.end].to_owned()
    };
    assert_eq!(part_of("cwd = 'ä/{{nam}}/b'"), "{{nam}}");
    assert_eq!(part_of("stop.command = \"a | b\""), "|");
    assert_eq!(part_of("attrs = { a = { b = ['x {{ports.p}}'] } }"), "{{ports.p}}");
    assert_eq!(part_of("ports = { a = 80, b = 80 }"), "80");
    assert_eq!(part_of("stop.command = \"a\\t| b\""), "\"a\\t| b\"");
    assert_eq!(part_of("env = { A = \"\"\"{{x}}\"\"\" }"), "\"\"\"{{x}}\"\"\"");
}

#[test]
fn no_control_character_of_the_input_reaches_a_message() {
    let hostile = "\\u001b]0;owned\\u0007\\u202e";
    for row in [
        format!("\"{hostile}\" = 1"),
        format!("cwd = \"{hostile}\""),
        format!("state = \"{hostile}\""),
        format!("ttl = \"1{hostile}\""),
        format!("umask = \"{hostile}\""),
        format!("stop.signal = \"{hostile}\""),
        format!("env = {{ \"{hostile}\" = '' }}"),
        "env = { \"\\u001bPORT\" = '' }\ncwd = '{{env.PORT}}'".to_owned(),
        format!("inherit_env = [\"{hostile}\"]"),
        format!("limits.core = \"1{hostile}\""),
        format!("health = \"{hostile}\""),
        format!("health = {{ command = 'a', expect_regex = \"({hostile}\" }}"),
        format!("url = \"http://{hostile}\""),
        format!("project = \"{hostile}\""),
        format!("ports = {{ \"{hostile}\" = 0 }}"),
        format!("ports.http = \"{hostile}\""),
        format!("ports.http = {{ \"{hostile}\" = 1 }}"),
        format!("health.port = \"{hostile}\""),
        format!("[service.\"{hostile}\"]"),
        format!("[service.\"{hostile}\"]\ncommand = 'a | \u{202e}'"),
        format!("[\"{hostile}\"]"),
        "a = \u{1b}[31m".to_owned(),
    ] {
        let problems = load(&text_of(&row)).problems;
        assert!(!problems.is_empty(), "{row}");
        for problem in problems {
            let shown = format!("{}{:?}{:?}", problem.message, problem.help, problem.service);
            let raw =
                problem.message + &problem.help.unwrap_or_default() + &problem.service.unwrap_or_default();
            assert!(!raw.chars().any(|c| c.is_control() || c == '\u{202e}'), "{row}: {shown}");
        }
    }
}

#[test]
fn syntax_errors_are_not_followed_by_their_consequences() {
    assert_eq!(codes("[service.web]\ncommand = [\"a\ncwd = 1\n"), [code::SYNTAX]);
    let both = codes("[service.web]\ncommand = \n[service.api]\ncommand = ['a']\ncwd = 1\n");
    assert_eq!(both, [code::SYNTAX, code::WRONG_TYPE]);
    let torn = load("[service.web]\ncommand = ['a']\n[service.api]\ncommand = \n");
    assert_eq!(torn.services, [], "a torn file declares nothing");
}

#[test]
fn nothing_declared_is_fine() {
    for text in ["", "\n\n", "# only a comment", "\u{feff}# with a byte order mark\r\n", "[service]\n"] {
        assert_eq!(load(text), Loaded::default(), "{text:?}");
    }
}

#[test]
fn a_good_service_is_loaded_beside_a_bad_one_of_the_same_file() {
    let loaded = load("[service.b]\ncommand = ['b']\n[service.a]\n[service.c]\ncommand = ['c']\n");
    let names: Vec<&str> = loaded.services.iter().map(|declared| declared.spec.id.name()).collect();
    assert_eq!(names, ["b", "c"], "in the order of the file");
    assert_eq!((loaded.services[1].span.line, loaded.services[1].span.column), (4, 10));
    assert!(loaded.problems.iter().all(|problem| problem.severity == Severity::Invalid));
}

fn spec(fields: &str) -> Spec {
    let loaded = load(&format!("[service.web]\n{fields}\n"));
    assert_eq!(loaded.problems, [], "{fields}");
    loaded.services.into_iter().next().expect("one service is declared").spec
}

#[test]
fn commands_are_words_or_a_script() {
    let argv = |words: &[&str]| CommandLine::Argv(words.iter().map(|word| (*word).to_owned()).collect());
    assert_eq!(spec("command = ['a', '', 'b c']").command, argv(&["a", "", "b c"]));
    assert_eq!(spec("command = \"a 'b c' d\\\\ e\"").command, argv(&["a", "b c", "d e"]));
    assert_eq!(spec("command = \"echo '$HOME'\"").command, argv(&["echo", "$HOME"]));
    assert_eq!(spec("command = ['sh', '-c', \"a\\nb\"]").command, argv(&["sh", "-c", "a\nb"]));
    let script = |kind| CommandLine::Shell { script: "a | b".to_owned(), kind };
    assert_eq!(spec("command = 'a | b'\nshell = true").command, script(Shell::Plain));
    assert_eq!(spec("command = 'a | b'\nshell = 'login'").command, script(Shell::Login));
    assert_eq!(spec("command = ['a']\nstop.command = []").stop.command, None);
    assert_eq!(
        spec("command = ['a']\nstop = { command = 'b', shell = true }").stop.command.map(|c| c.is_shell()),
        Some(true)
    );
}

#[test]
fn health_checks_are_told_by_their_keys() {
    let check = |fields: &str| spec(&format!("command = ['a']\n{fields}")).health.map(|health| health.check);
    let http = |url: &str| Some(HealthCheck::Http { url: url.to_owned(), expect_status: None });
    assert_eq!(check("url = 'http://h:1/app/'\nhealth = '/health?x'"), http("http://h:1/health?x"));
    assert_eq!(check("url = 'https://h'\nhealth.url = '/up'"), http("https://h/up"));
    assert_eq!(check("health.url = 'http://h/'"), http("http://h/"));
    let tcp = |host: &str| Some(HealthCheck::Tcp { host: host.to_owned(), port: CheckPort::Number(80) });
    assert_eq!(check("health.port = 80"), tcp("127.0.0.1"));
    assert_eq!(check("health = { type = 'tcp', port = 80, host = '::1' }"), tcp("::1"));
    let named = HealthCheck::Tcp { host: "127.0.0.1".to_owned(), port: CheckPort::Text("db".to_owned()) };
    assert_eq!(check("ports.db = 'auto'\nhealth.port = 'db'"), Some(named));
    assert!(matches!(check("health.command = 'a b'"), Some(HealthCheck::Command { .. })));
    assert_eq!(
        check("env = { PORT = '8080' }\nurl = 'http://h:{{env.PORT}}'\nhealth = '/{{name}}'"),
        http("http://h:{{env.PORT}}/{{name}}"),
        "texts are kept as written"
    );
}

#[test]
fn values_are_read_as_they_are_meant() {
    let spec = spec(
        "command = ['a']\nttl = '1h 30m'\numask = '7'\nstop.signal = 'SIGRTMIN+3'\nrestart.backoff_factor = 3\n\
         limits = { nofile = 'unlimited', core = 0, stack = '8MiB' }\n\
         attrs = { when = 1979-05-27, list = [1, 'a', { b = true }] }",
    );
    assert_eq!(spec.ttl, Some(Duration::from_secs(5400)));
    assert_eq!(spec.umask, 0o007);
    assert_eq!(spec.stop.signal, SignalName(libc::SIGRTMIN() + 3));
    assert!((spec.restart.backoff_factor - 3.0).abs() < f64::EPSILON);
    assert_eq!(
        (spec.limits.nofile, spec.limits.core, spec.limits.stack),
        (Some(u64::MAX), Some(0), Some(8 << 20))
    );
    assert_eq!(
        serde_json::Value::Object(spec.attrs),
        serde_json::json!({ "when": "1979-05-27", "list": [1, "a", { "b": true }] })
    );
}

#[test]
fn the_patterns_of_a_file_are_compiled_within_bounds() {
    let file = |services: usize, pattern: &str| -> String {
        let service = |n| {
            format!(
                "[service.x{n}]\ncommand = 'a'\nhealth = {{ command = 'a', expect_regex = '{pattern}' }}\n"
            )
        };
        (0..services).map(service).collect()
    };
    assert_eq!(load(&file(1_000, "PONG")).problems, []);
    let problems = load(&file(100, r"\pL{99}")).problems;
    assert!(problems[0].message.contains("too large a program"), "{:?}", problems[0]);
    assert!(problems[99].message.contains("together"), "{:?}", problems[99]);
}

#[test]
fn names_of_dependencies_are_seen_from_the_project_and_have_their_places() {
    let text = "[service.web]\nproject = 'shop'\ncommand = ['a']\n[service.db]\ncommand = ['b']\n\
                [service.web.depends_on]\ndb = { restart = true }\n'default/db' = 'completed'\n";
    let loaded = load(text);
    assert_eq!(loaded.problems, []);
    let web = &loaded.services[0];
    let needs: Vec<_> = web.needs.iter().map(|(id, span)| (id.key(), span.line)).collect();
    assert_eq!(needs, [("shop/db", 7), ("default/db", 8)]);
    let wanted: Vec<_> = web.spec.depends_on.iter().map(|(id, wanted)| (id.key(), *wanted)).collect();
    let (ready, completed) = (Condition::Ready, Condition::Completed);
    assert_eq!(
        wanted,
        [
            ("default/db", Dependency { condition: completed, restart: false }),
            ("shop/db", Dependency { condition: ready, restart: true }),
        ]
    );
}
