use super::*;
use crate::identity::ServiceId;
use crate::manifest::{PortBlock, load};

fn rendered(fields: &str) -> Rendered {
    let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
    assert_eq!(loaded.problems, [], "{fields}");
    let around = Surroundings {
        project_dir: Path::new("/srv/shop"),
        home: Some(Path::new("/home/ann")),
        ports: &given(),
        work: None,
        cwd: None,
    };
    render(&loaded.services[0].spec, &around)
}

/// `web` was given 7 as `http`, and 8 and 9 as `agent`.
fn given() -> PortBlocks {
    let block = |first, count| PortBlock { first, count, fixed: false };
    PortBlocks::from([("http".to_owned(), block(7, 1)), ("agent".to_owned(), block(8, 2))])
}

fn shown(fields: &str, given: &PortBlocks) -> Shown {
    let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
    assert_eq!(loaded.problems, [], "{fields}");
    let around =
        Surroundings { project_dir: Path::new("/srv/shop"), home: None, ports: given, work: None, cwd: None };
    render_shown(&loaded.services[0].spec, &around)
}

#[test]
fn ports_are_filled_in_wherever_templates_are() {
    let ports = "ports = { http = 'auto', agent = { auto = true, count = 2 }, db = 5432 }\n";
    let filled = rendered(&format!(
        "{ports}env = {{ A = '{{{{ports.agent}}}}-{{{{ports.agent[1]}}}}' }}\ncwd = 'p{{{{ports.db}}}}'\n\
         stop.command = ['quit', '{{{{env.A}}}}']\nhealth = {{ host = 'h', port = 'http' }}"
    ));
    assert_eq!((filled.env["A"].as_str(), filled.cwd.as_path()), ("8-9", Path::new("/srv/shop/p5432")));
    assert_eq!(filled.stop_command, Some(vec!["quit".to_owned(), "8-9".to_owned()]));
    let tcp = |port| Some(RenderedCheck::Tcp { host: "127.0.0.1".to_owned(), port });
    assert_eq!(filled.health, Some(RenderedCheck::Tcp { host: "h".to_owned(), port: 7 }));
    let by_template = rendered(&format!("{ports}health = {{ port = '{{{{ports.agent[1]}}}}' }}"));
    assert_eq!(by_template.health, tcp(9));
    assert_eq!(rendered(&format!("{ports}health = {{ port = 'db' }}")).health, tcp(5432));
    let what = shown(
        &format!(
            "{ports}url = 'http://h:{{{{ports.http}}}}'\nattrs = {{ a = ['{{{{ports.agent[1]}}}}', 1] }}"
        ),
        &given(),
    );
    assert_eq!(what.url.as_deref(), Some("http://h:7"));
    assert_eq!(Value::Object(what.attrs), serde_json::json!({ "a": ["9", 1] }));
}

#[test]
fn what_goes_by_a_port_that_is_not_known_is_not_known() {
    let fields = "ports = { http = 'auto', db = 80 }\nenv = { P = '{{ports.http}}' }\n\
                  url = 'http://h:{{env.P}}'\nhealth = '/{{env.P}}'\nattrs = { a = '{{env.P}}', b = '{{ports.db}}' }";
    let what = shown(fields, &PortBlocks::new());
    assert_eq!((what.url, Value::Object(what.attrs)), (None, serde_json::json!({ "a": null, "b": "80" })));
    let loaded = load(&format!("[service.web]\ncommand = ['a']\n{fields}\n"));
    let around = Surroundings {
        project_dir: Path::new("/"),
        home: None,
        ports: &PortBlocks::new(),
        work: None,
        cwd: None,
    };
    assert_eq!(render(&loaded.services[0].spec, &around).health, None);
}

#[test]
fn relative_directories_start_at_the_project_and_tilde_is_the_home() {
    for (written, absolute) in [
        (".", "/srv/shop"),
        ("./sub/./x", "/srv/shop/sub/x"),
        ("../other", "/srv/shop/../other"),
        ("/abs", "/abs"),
        ("~", "/home/ann"),
        ("~/x", "/home/ann/x"),
        ("~//etc", "/home/ann/etc"),
        ("~ann", "/srv/shop/~ann"),
        ("{{name}}/{{project}}", "/srv/shop/web/default"),
    ] {
        assert_eq!(rendered(&format!("cwd = '{written}'")).cwd, Path::new(absolute), "{written}");
    }
}

#[test]
fn without_a_home_the_tilde_is_no_other_directory() {
    let loaded = load("[service.web]\ncommand = ['a']\ncwd = '~/x'\n");
    let around = Surroundings {
        project_dir: Path::new("/srv"),
        home: None,
        ports: &PortBlocks::new(),
        work: None,
        cwd: None,
    };
    assert_eq!(render(&loaded.services[0].spec, &around).cwd, Path::new("/srv/~/x"));
}

#[test]
fn every_text_is_filled_in() {
    let filled = rendered(
        "cwd = 'apps/{{name}}'\nurl = 'http://h:{{env.PORT}}'\n\
         env = { PORT = '8080', DIR = '{{cwd}}/{{env.PORT}}', BRACES = '{{{{x}}' }\n\
         stop.command = ['kill', '{{env.DIR}}']\n\
         health = { command = 'probe {{env.PORT}} | grep ok', shell = true, expect_regex = 'o[k]' }",
    );
    assert_eq!(
        shown("url = 'http://h:{{env.P}}'\nenv.P = '81'", &given()).url.as_deref(),
        Some("http://h:81")
    );
    assert_eq!(filled.env["DIR"], "/srv/shop/apps/web/8080");
    assert_eq!(filled.env["BRACES"], "{{x}}");
    assert_eq!(filled.stop_command, Some(vec!["kill".to_owned(), "/srv/shop/apps/web/8080".to_owned()]));
    let argv = ["/bin/sh", "-c", "probe 8080 | grep ok"].map(str::to_owned).to_vec();
    let expect_regex = Some("o[k]".to_owned());
    assert_eq!(filled.health, Some(RenderedCheck::Command { argv, expect_regex }));
}

#[test]
fn values_are_never_split_into_words() {
    let loaded = load("[service.web]\ncommand = 'run {{env.TEXT}}'\nenv.TEXT = 'a b; c'\n");
    let around = Surroundings {
        project_dir: Path::new("/"),
        home: None,
        ports: &PortBlocks::new(),
        work: None,
        cwd: None,
    };
    assert_eq!(render(&loaded.services[0].spec, &around).argv, ["run", "a b; c"]);
}

#[test]
fn checks_over_the_network_are_filled_in() {
    let env = "env = { HOST = '::1', PORT = '81' }";
    assert_eq!(
        rendered(&format!("{env}\nhealth = {{ host = '{{{{env.HOST}}}}', port = 80 }}")).health,
        Some(RenderedCheck::Tcp { host: "::1".to_owned(), port: 80 })
    );
    assert_eq!(
        rendered(&format!("{env}\nurl = 'http://h:{{{{env.PORT}}}}/x'\nhealth = '/{{{{name}}}}'")).health,
        Some(RenderedCheck::Http { url: "http://h:81/web".to_owned(), expect_status: None })
    );
}

#[test]
fn circles_of_a_spec_made_by_hand_come_to_an_end() {
    let id = ServiceId::parse("web").expect("it is a name");
    let mut spec = Spec::minimal(id, CommandLine::Argv(vec!["{{env.A}}{{nope}}{{".to_owned()]));
    let doubled = |key: &str| format!("{{{{env.{key}}}}}{{{{env.{key}}}}}{{{{cwd}}}}");
    spec.env =
        ["A", "B", "C"].map(|key| (key.to_owned(), doubled(if key == "A" { "B" } else { "A" }))).into();
    spec.cwd = "{{env.A}}".to_owned();
    let around = Surroundings {
        project_dir: Path::new("/"),
        home: None,
        ports: &PortBlocks::new(),
        work: None,
        cwd: None,
    };
    let argv = render(&spec, &around).argv;
    assert!(argv[0].ends_with("{{nope}}{{"), "{argv:?}");
}
