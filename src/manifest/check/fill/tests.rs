use crate::manifest::{Class, Spec, changed_fields, code, compose, fingerprint, load};

const RUNTIME: &str = "[template.runtime]
project = '{{vars.project}}'
command = 'node server.js --title {{vars.title}}'
cwd = '/srv/{{vars.project}}'
nice = '{{vars.nice}}'
env = { A = 'of the template', PORT = '{{vars.port}}', B = 'b' }
url = 'http://127.0.0.1:{{vars.port}}/{{name}}'
labels = { team = '{{vars.team}}' }
health = '/health'
vars = { nice = 5, team = 'none' }
[template.runtime.restart]
success_codes = [0, 3]
backoff = '2s'
[template.runtime.ports]
http = '{{vars.port}}'
";

/// The one service of a text without problems.
fn spec(text: &str) -> Spec {
    let loaded = load(text);
    assert_eq!(loaded.problems, [], "{text}");
    assert_eq!(loaded.services.len(), 1, "{text}");
    loaded.services.into_iter().next().unwrap().spec
}

/// Code, line, column and message with help of each problem.
fn problems(text: &str) -> Vec<(String, usize, usize, String)> {
    let listed = load(text).problems.into_iter().map(|problem| {
        let span = problem.span.unwrap();
        let told = format!("{}; {}", problem.message, problem.help.unwrap_or_default());
        (problem.code, span.line, span.column, told)
    });
    listed.collect()
}

fn only_problem(text: &str) -> (String, usize, usize, String) {
    let mut found = problems(text);
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found.remove(0)
}

#[test]
fn a_filled_service_is_the_one_that_is_written_out() {
    let filled = spec(&format!(
        "{RUNTIME}
[service.p1]
template = 'runtime'
vars = {{ project = 'shop', title = 'a b', port = 8080, team = 'x' }}
env = {{ A = 'own' }}
restart = {{ success_codes = [7] }}
"
    ));
    let written = spec(
        "[service.p1]
project = 'shop'
command = ['node', 'server.js', '--title', 'a b']
cwd = '/srv/shop'
nice = 5
env = { A = 'own', PORT = '8080', B = 'b' }
url = 'http://127.0.0.1:8080/{{name}}'
labels = { team = 'x' }
health = '/health'
restart = { success_codes = [7], backoff = '2s' }
ports = { http = 8080 }
",
    );
    assert_eq!(filled, written);
    assert_eq!(fingerprint(&filled), fingerprint(&written));
}

#[test]
fn an_edit_of_a_template_is_that_of_its_fields() {
    let with = |template: &str| {
        spec(&format!("[template.t]\n{template}\n[service.a]\ntemplate = 't'\nenv = {{ A = 'own' }}\n"))
    };
    let before = with("command = ['a']\nttl = '1h'\nenv = { A = '1' }");
    assert_eq!(
        changed_fields(&before, &with("command = ['a']\nttl = '2h'\nenv.A = '1'")),
        [("ttl", Class::Live)]
    );
    assert_eq!(
        changed_fields(&before, &with("command = ['b']\nttl = '1h'\nenv.A = '1'")),
        [("command", Class::Restart)]
    );
    assert_eq!(
        changed_fields(&before, &with("command = ['a']\nttl = '1h'\nenv.A = '2'")),
        [],
        "its own wins"
    );
}

#[test]
fn a_command_and_a_check_of_the_service_leave_nothing_of_the_templates() {
    let template = "[template.t]\ncommand = 'a | b'\nshell = true\n\
                    [template.t.health]\nurl = 'http://h'\nexpect_status = 204\ninterval = '3s'\n\
                    [template.t.ports]\nhttp = { auto = true, count = 2 }\n";
    let filled = spec(&format!(
        "{template}[service.a]\ntemplate = 't'\ncommand = ['c']\nhealth = {{ port = 80 }}\nports.http = {{ port = 81 }}\n"
    ));
    let written = "[service.a]\ncommand = ['c']\nhealth = { port = 80, interval = '3s' }\nports.http = 81\n";
    assert_eq!(filled, spec(written));
}

#[test]
fn what_fills_a_word_of_a_command_stays_one_word() {
    let filled = |command: &str| {
        let text = format!(
            "[template.t]\ncommand = {command}\n[service.a]\ntemplate = 't'\nvars = {{ x = \"b c; d'\" }}\n"
        );
        spec(&text).command.words().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(filled("'a --x={{vars.x}} e'"), ["a", "--x=b c; d'", "e"]);
    assert_eq!(filled("['a', '{{vars.x}}']"), ["a", "b c; d'"]);
}

#[test]
fn a_value_may_name_what_its_service_has() {
    let text = "[template.t]\ncommand = ['a', '{{vars.x}}']\n\
                [service.a]\ntemplate = 't'\nports = { http = 'auto' }\nvars = { x = '{{ports.http}}' }\n";
    assert_eq!(spec(text).command.words(), ["a", "{{ports.http}}"]);
}

#[test]
fn unknown_unused_and_missing_values_have_their_place_and_a_suggestion() {
    let with = |service: &str| {
        let template =
            "[template.run]\ncommand = ['a', '{{vars.port}}', '{{vars.root}}']\nvars = { root = '/' }\n";
        only_problem(&format!("{template}[service.a]\n{service}\n"))
    };
    let (code, line, column, told) = with("template = 'T'\nvars = { port = 1 }");
    assert_eq!((code.as_str(), line, column), (code::NO_TEMPLATE, 5, 12));
    assert_eq!(told, "there is no template `T`; declare it as `[template.T]`");
    assert!(with("template = 'runn'").3.ends_with("did you mean `run`?"));
    let (code, line, column, told) = with("template = 'run'");
    assert_eq!((code.as_str(), line, column), (code::MISSING_VAR, 5, 12));
    assert_eq!(told, "`vars.port` is not given; give it, like `vars = { port = \"…\" }`");
    let (code, line, column, told) = with("template = 'run'\nvars = { prot = 1 }");
    assert_eq!((code.as_str(), line, column), (code::UNKNOWN_VAR, 6, 10));
    assert_eq!(told, "nothing is filled in by `vars.prot`; did you mean `port`?", "and it is one problem");
    let (code, _, _, told) = with("template = 'run'\nvars = { port = 1, colour = 1 }");
    assert_eq!(code, code::UNKNOWN_VAR);
    assert!(told.ends_with("leave it out; there are port, root"), "{told}");
    assert_eq!(with("template = 'run'\nvars = { port = 1.5 }").0, code::WRONG_TYPE);
    assert_eq!(with("template = 'run'\ncommand = ['{{vars.x}}']").0, code::MISSING_VAR);
}

#[test]
fn a_hole_whose_place_the_service_fills_itself_needs_no_value() {
    let text = "[template.t]\ncommand = ['{{vars.x}}']\n[service.a]\ntemplate = 't'\ncommand = ['b']\n";
    assert_eq!(spec(text).command.words(), ["b"]);
}

#[test]
fn a_bad_value_is_told_where_it_is_given() {
    let text = "[template.t]\ncommand = ['a']\nttl = '{{vars.ttl}}'\n[service.a]\ntemplate = 't'\nvars = { ttl = 'soon' }\n";
    let (code, line, column, _) = only_problem(text);
    assert_eq!((code.as_str(), line, column), (code::BAD_DURATION, 6, 16));
}

#[test]
fn a_template_is_checked_by_itself_and_its_problems_are_told_once() {
    for (code, template) in [
        (code::UNKNOWN_KEY, "comand = ['a']"),
        (code::BAD_DURATION, "ttl = 'soon'"),
        (code::WRONG_TYPE, "restart.success_codes = 0"),
        (code::UNKNOWN_TEMPLATE, "cwd = '{{vras.x}}'"),
        (code::UNKNOWN_KEY, "template = 'other'"),
        (code::UNKNOWN_VAR, "vars = { x = 1 }"),
        (code::TEMPLATE_CYCLE, "cwd = '{{vars.x}}'\nvars = { x = '{{vars.x}}' }"),
    ] {
        let text =
            format!("[template.t]\n{template}\n[service.a]\ntemplate = 't'\n[service.b]\ntemplate = 't'\n");
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].0, code, "{text}");
        assert_eq!(load(&text).services, []);
    }
}

#[test]
fn what_a_service_may_add_is_not_missing_from_a_template() {
    for template in [
        "",
        "cwd = '{{env.ROOT}}/{{ports.http}}'",
        "health = '/health'",
        "ttl = '{{vars.ttl}}'\nrestart.success_codes = ['{{vars.code}}']",
        "health.port = 'http'",
        "env = '{{vars.env}}'",
    ] {
        let text = format!("[template.t]\n{template}\n");
        let loaded = load(&text);
        assert_eq!(loaded.problems, [], "{template}");
        assert_eq!(loaded.services, [], "a template starts nothing");
        assert_eq!(loaded.templates.len(), 1);
    }
}

#[test]
fn a_text_made_whole_is_that_of_one_file_and_its_problems_are_told_in_its_own_part() {
    let of_others =
        load("# theirs\n[template.t]\n# it\ncommand = ['a']\nttl = '{{vars.ttl}}'\nrestart.backoff = '2m'\n");
    let own = "[service.a]\ntemplate = 't'\nvars = { ttl = '1h' }\nrestart.backoff_max = '3m'";
    let alone = load(own);
    assert_eq!(alone.borrowed.len(), 1);
    assert_eq!(alone.borrowed[0].template, "t");
    assert_eq!(
        alone.problems.iter().map(|problem| problem.code.as_str()).collect::<Vec<_>>(),
        [code::NO_TEMPLATE]
    );
    let whole = compose(own, of_others.templates.iter());
    assert_eq!(
        spec(&whole),
        spec(&format!(
            "{own}\n[template.t]\ncommand = ['a']\nttl = '{{{{vars.ttl}}}}'\nrestart.backoff = '2m'"
        ))
    );
    assert_eq!(load(&whole).borrowed, []);
    let short = compose(&own.replace("'3m'", "'1s'"), of_others.templates.iter());
    let (code, line, column, _) = only_problem(&short);
    assert_eq!((code.as_str(), line, column), (code::CONFLICTING_KEYS, 2, 12));
}

#[test]
fn many_services_of_a_large_template_are_a_problem_and_no_memory() {
    let services: String = (0..2000).map(|n| format!("[service.a{n}]\ntemplate = 't'\n")).collect();
    let text = format!("[template.t]\ncommand = ['a']\ndescription = '{}'\n{services}", "x".repeat(60_000));
    let loaded = load(&text);
    assert!(
        loaded.problems.iter().all(
            |problem| problem.code == code::TEMPLATE_TOO_LARGE || problem.code == code::TOO_MANY_PROBLEMS
        )
    );
    assert!(!loaded.problems.is_empty() && loaded.services.len() < 300);
    let holes = "{{vars.x}}".repeat(1000);
    let text = format!(
        "[template.t]\ncommand = ['a']\ndescription = '{holes}'\n[service.a]\ntemplate = 't'\nvars.x = '{}'",
        "x".repeat(60_000)
    );
    assert_eq!(only_problem(&text).0, code::TEMPLATE_TOO_LARGE);
}
