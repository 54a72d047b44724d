//! Every rule about executables, on a model of a machine.

use super::*;
use crate::manifest::Severity;
use crate::policy::code;
use crate::policy::machine::{Machine, PROJECT, UID, config_of, one_user};

fn executables(list: &str) -> String {
    format!("[policy]\nexecutables = [{list}]\nsearch_path = ['/usr/bin']\n")
}

/// The code of a refusal, and its help.
fn refusal(machine: &Machine, policy: &Policy, word: &str) -> (String, String) {
    let problem = machine.permit(policy, word).expect_err(word);
    assert_eq!(problem.severity, Severity::Refused);
    (problem.code, problem.help.unwrap_or_default())
}

#[test]
fn a_name_allows_its_file_however_it_is_called() {
    let machine = Machine::usual();
    let policy = machine.policy(&executables("'node'"));
    assert_eq!(machine.refused(&policy, "node"), None);
    assert_eq!(machine.refused(&policy, "/usr/bin/node"), None);
    assert_eq!(machine.refused(&policy, "python3").as_deref(), Some(code::EXEC_NOT_ALLOWED));
}

#[test]
fn a_file_of_the_same_name_elsewhere_is_another_file() {
    let mut machine = Machine::usual();
    machine.owned(&format!("{PROJECT}/node"), UID);
    let policy = machine.policy(&executables("'node'"));
    let (code, help) = refusal(&machine, &policy, "./node");
    assert_eq!(code, code::EXEC_OTHER_FILE);
    assert!(help.contains(&format!("executables = [\"node\", \"{PROJECT}/node\"]")), "{help}");
}

#[test]
fn a_link_with_another_name_is_refused() {
    let mut machine = Machine::usual();
    machine.link(&format!("{PROJECT}/innocent"), "/usr/bin/node");
    let policy = machine.policy(&executables("'node'"));
    assert_eq!(machine.refused(&policy, "./innocent").as_deref(), Some(code::EXEC_OTHER_NAME));
}

#[test]
fn versions_of_one_name_are_one() {
    let machine = Machine::usual();
    for (entry, call) in [
        ("'python3'", "/usr/bin/python3.11"),
        ("'python3.11'", "python3"),
        ("'/usr/bin/python3'", ".venv/bin/python"),
    ] {
        let policy = machine.policy(&executables(entry));
        assert_eq!(machine.refused(&policy, call), None, "{entry} and {call}");
    }
}

#[test]
fn a_multi_call_binary_is_allowed_by_name() {
    let machine = Machine::usual();
    let policy = machine.policy(&executables("'sh'"));
    assert_eq!(machine.refused(&policy, "sh"), None);
    let problem = machine.permit(&policy, "wget").unwrap_err();
    assert_eq!(problem.code, code::EXEC_OTHER_NAME);
    assert!(problem.message.contains("only as `sh`"), "{}", problem.message);
    let whole = machine.policy(&executables("'busybox'"));
    assert_eq!(machine.refused(&whole, "busybox"), None);
    assert_eq!(machine.refused(&whole, "sh").as_deref(), Some(code::EXEC_OTHER_NAME));
}

#[test]
fn versions_do_not_make_a_multi_call_binary_one_name() {
    let mut machine = Machine::usual();
    machine.file("/usr/bin/shim");
    machine.link("/usr/bin/tool1", "/usr/bin/shim");
    machine.link("/usr/bin/tool2", "/usr/bin/shim");
    let policy = machine.policy(&executables("'tool1'"));
    assert_eq!(machine.refused(&policy, "tool2").as_deref(), Some(code::EXEC_OTHER_NAME));
}

#[test]
fn every_interpreter_of_a_script_must_be_allowed() {
    let machine = Machine::usual();
    let both = machine.policy(&executables("'npm', 'node'"));
    assert_eq!(machine.refused(&both, "npm"), None);
    let script_only = machine.policy(&executables("'npm'"));
    let (code, help) = refusal(&machine, &script_only, "npm");
    assert_eq!(code, code::INTERPRETER_NOT_ALLOWED);
    assert!(help.contains("executables = [\"npm\", \"node\"]") && help.contains("`--allow node`"), "{help}");
    let interpreter_only = machine.policy(&executables("'node'"));
    assert_eq!(machine.refused(&interpreter_only, "npm").as_deref(), Some(code::EXEC_NOT_ALLOWED));
}

#[test]
fn a_projects_own_script_needs_itself_and_its_interpreter() {
    let machine = Machine::usual();
    let policy = machine.policy("");
    let (code, help) = refusal(&machine, &policy, "./run.sh");
    assert_eq!(code, code::EXEC_NOT_ALLOWED);
    assert!(help.contains("\"@default\""), "the line keeps what is allowed already: {help}");
    let own = format!("'{PROJECT}/run.sh'");
    let policy = machine.policy(&executables(&own));
    assert_eq!(machine.refused(&policy, "./run.sh").as_deref(), Some(code::INTERPRETER_NOT_ALLOWED));
    let policy = machine.policy(&executables(&format!("{own}, '/bin/sh'")));
    assert_eq!(machine.refused(&policy, "./run.sh"), None);
}

#[test]
fn a_glob_allows_what_lies_below_it_under_its_own_name() {
    let mut machine = Machine::usual();
    machine.file("/srv/app/v2/bin/server");
    machine.link("/srv/app/current/bin/server", "/srv/app/v2/bin/server");
    machine.link("/srv/app/other", "/srv/app/v2/bin/server");
    for pattern in ["'/srv/app/v*/bin/*'", "'/srv/app/current/bin/*'"] {
        let policy = machine.policy(&executables(pattern));
        assert_eq!(machine.refused(&policy, "/srv/app/current/bin/server"), None, "{pattern}");
    }
    let policy = machine.policy(&executables("'/srv/app/v*/bin/*'"));
    assert_eq!(machine.refused(&policy, "/srv/app/other").as_deref(), Some(code::EXEC_NOT_ALLOWED));
}

#[test]
fn a_pin_holds_the_content_whatever_else_allows_the_file() {
    let mut machine = Machine::usual();
    let digest = blake3::hash(b"/usr/bin/node").to_hex();
    let text = executables(&format!("'node', {{ path = '/usr/bin/node', blake3 = '{digest}' }}"));
    let mut policy = machine.policy(&text);
    assert_eq!(machine.refused(&policy, "node"), None);

    let node = machine.at("/usr/bin/node");
    (node.content, node.ctime_ns) = ("evil".to_owned(), 2);
    let (code, help) = refusal(&machine, &policy, "node");
    assert_eq!((code.as_str(), help.contains("next pass")), (code::PIN_MISMATCH, true));
    policy.resolve_entries(&mut |query| machine.resolve(query));
    let (code, help) = refusal(&machine, &policy, "node");
    assert_eq!(code, code::PIN_MISMATCH);
    assert!(help.contains(blake3::hash(b"evil").to_hex().as_str()), "{help}");
}

/// `node` by name, and pinned to what is there.
fn pinned_node() -> String {
    let digest = blake3::hash(b"/usr/bin/node").to_hex();
    executables(&format!("'node', '/opt/**', {{ path = '/usr/bin/node', blake3 = '{digest}' }}"))
}

#[test]
fn a_pin_holds_at_once_for_what_takes_the_files_place() {
    let mut machine = Machine::usual();
    let mut policy = machine.policy(&pinned_node());
    machine.files.remove(Path::new("/usr/bin/node"));
    machine.file("/opt/other");
    machine.file("/usr/bin/node").content = "evil".to_owned();
    for word in ["node", "/usr/bin/node"] {
        let (code, help) = refusal(&machine, &policy, word);
        assert_eq!((code.as_str(), help.contains("next pass")), (code::PIN_MISMATCH, true), "{word}");
    }
    machine.link("/usr/bin/node", "/opt/other");
    assert_eq!(machine.refused(&policy, "node").as_deref(), Some(code::PIN_MISMATCH), "a link instead");
    policy.resolve_entries(&mut |query| machine.resolve(query));
    assert_eq!(machine.refused(&policy, "node").as_deref(), Some(code::PIN_MISMATCH));
}

#[test]
fn a_pinned_file_that_was_not_there_is_not_let_in_by_another_entry() {
    let mut machine = Machine::usual();
    machine.files.remove(Path::new("/usr/bin/node"));
    let text = pinned_node().replace("'/opt/**'", "'/usr/bin/*'");
    let mut policy = machine.policy(&text);
    machine.file("/usr/bin/other");
    machine.file("/usr/bin/node");
    assert_eq!(machine.refused(&policy, "node").as_deref(), Some(code::PIN_MISMATCH));
    policy.resolve_entries(&mut |query| machine.resolve(query));
    assert_eq!(machine.refused(&policy, "node"), None, "its content is the pinned one");
}

#[test]
fn a_file_that_others_can_change_is_never_allowed() {
    let mut machine = Machine::usual();
    machine.at("/usr/bin/node").writable_by_others = true;
    let policy = machine.policy(&executables("'node'"));
    let (code, help) = refusal(&machine, &policy, "node");
    assert_eq!((code.as_str(), help.contains("chmod g-w,o-w /usr/bin/node")), (code::EXEC_WRITABLE, true));
}

#[test]
fn strangers_get_the_built_in_list_on_the_system_path() {
    let machine = Machine::usual();
    let policy = machine.policy("");
    for word in ["node", "npm", "python3", "mvn", ".venv/bin/python"] {
        assert_eq!(machine.refused(&policy, word), None, "{word}");
    }
    for word in ["./server", "sh", "wget", "/usr/bin/env"] {
        assert!(machine.refused(&policy, word).is_some(), "{word}");
    }
    assert_eq!(policy.search_path(), SYSTEM_PATH.map(PathBuf::from));
}

#[test]
fn one_user_gets_his_own_files_and_his_path_as_well() {
    let mut machine = Machine::usual();
    machine.owned("/home/ann/.nvm/bin/node", UID);
    machine.owned("/home/ann/tools/helper", UID);
    machine.owned(&format!("{PROJECT}/bobs"), UID + 1);
    machine.link(&format!("{PROJECT}/to-helper"), "/home/ann/tools/helper");
    let trust = one_user(&["/home/ann/.nvm/bin", "/usr/bin"]);
    let policy = machine.policy_of(&Config::default(), trust, &[]);
    for word in ["node", "/usr/bin/node", "./server", "./run.sh", "sh", ".venv/bin/python", "./to-helper"] {
        assert_eq!(machine.refused(&policy, word), None, "{word}");
    }
    for word in ["wget", "./bobs", "/home/ann/tools/helper"] {
        assert!(machine.refused(&policy, word).is_some(), "{word}");
    }
    assert_eq!(machine.chain(&policy, "node")[0].found, PathBuf::from("/home/ann/.nvm/bin/node"));
}

#[test]
fn a_configured_list_replaces_the_built_in_one_for_everybody() {
    let machine = Machine::usual();
    let policy = machine.policy_of(&config_of(&executables("'python3'")), one_user(&["/usr/bin"]), &[]);
    for word in ["node", "./server", "sh"] {
        assert!(machine.refused(&policy, word).is_some(), "{word}");
    }
    let more = config_of(&executables("'@default', 'wget'"));
    let policy = machine.policy_of(&more, one_user(&["/usr/bin"]), &[]);
    for word in ["node", "./server", "wget"] {
        assert_eq!(machine.refused(&policy, word), None, "{word}");
    }
}

#[test]
fn the_line_of_a_refusal_allows_it() {
    let mut machine = Machine::usual();
    machine.owned(&format!("{PROJECT}/node"), UID);
    machine.script(&format!("{PROJECT}/odd"), "wget");
    for config in ["", "[policy]\nexecutables = ['node']\n", "[policy]\npreset = 'agents'\n"] {
        for word in
            ["./node", "./server", "./run.sh", "./odd", "wget", "sh", ".venv/bin/python", "/usr/bin/wget"]
        {
            let before = machine.policy(config);
            let Err(problem) = machine.permit(&before, word) else { continue };
            let help = problem.help.unwrap();
            let line = help.split('`').find(|part| part.starts_with("executables = ")).expect(&help);
            let after = machine.policy(&format!("[policy]\n{line}\n"));
            assert_eq!(machine.refused(&after, word), None, "{word} with {line}");

            let flags = help.split('`').find(|part| part.starts_with("--allow ")).expect(&help);
            let names: Vec<_> = flags.split(' ').filter(|part| *part != "--allow").collect();
            let run = machine.policy_of(&config_of(config), Trust::Strangers, &names);
            assert_eq!(machine.refused(&run, word), None, "{word} with {flags}");
        }
    }
}

#[test]
fn an_allowance_stays_with_what_it_started() {
    let mut machine = Machine::usual();
    let allowing = machine.policy_of(&Config::default(), Trust::Strangers, &["wget"]);
    let chain = machine.chain(&allowing, "wget");
    let facts = allowing.exec_facts(&chain, UID);
    assert_eq!((facts.allowed.as_slice(), facts.uid), (&["wget".to_owned()][..], UID));
    assert_eq!(allowing.exec_facts(&machine.chain(&allowing, "node"), UID).allowed, [""; 0]);

    let later = machine.policy("");
    assert!(later.permit(Purpose::Command, &chain).is_err());
    assert_eq!(later.permit_started(Purpose::Command, &chain, &facts), Ok(()));
    let other = machine.chain(&later, "/usr/bin/busybox");
    assert!(later.permit_started(Purpose::Command, &other, &facts).is_err());

    machine.file("/opt/wget");
    let elsewhere = machine.chain(&later, "/opt/wget");
    assert!(later.permit_started(Purpose::Command, &elsewhere, &facts).is_err());
}

#[test]
fn nothing_goes_above_the_ceiling() {
    let machine = Machine::usual();
    let ceiling = config_of("[policy]\nexecutables = ['node', 'sh']\n");
    let (config, _) = config_of(&executables("'node', 'python3'")).under(ceiling);
    let policy = machine.policy_of(&config, one_user(&["/usr/bin"]), &["wget"]);
    assert_eq!(machine.refused(&policy, "node"), None);
    for word in ["python3", "wget", "sh"] {
        assert!(machine.refused(&policy, word).is_some(), "{word}");
    }
    let (_, help) = refusal(&machine, &policy, "python3");
    assert!(help.contains("ceiling"), "{help}");
}

#[test]
fn the_ceiling_looks_names_up_on_its_own_path() {
    let mut machine = Machine::usual();
    machine.owned("/tmp/bin/node", UID);
    let own = config_of("[policy]\nexecutables = ['node']\nsearch_path = ['/tmp/bin', '/usr/bin']\n");
    let (config, _) = own.under(config_of("[policy]\nexecutables = ['node']\n"));
    let policy = machine.policy_of(&config, Trust::Strangers, &[]);
    assert_eq!(machine.refused(&policy, "node").as_deref(), Some(code::EXEC_OTHER_FILE));
    assert_eq!(machine.refused(&policy, "/usr/bin/node"), None);
}

#[test]
fn entries_are_as_fresh_as_their_resolution() {
    let mut machine = Machine::usual();
    let mut policy = machine.policy(&executables("'node'"));
    machine.files.remove(Path::new("/usr/bin/node"));
    machine.file("/usr/bin/something");
    machine.file("/usr/bin/node");
    assert!(machine.refused(&policy, "node").is_some());
    policy.resolve_entries(&mut |query| machine.resolve(query));
    assert_eq!(machine.refused(&policy, "node"), None);
}

#[test]
fn every_command_of_a_service_is_asked_for() {
    let machine = Machine::usual();
    let policy = machine.policy("");
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let (command, health, stop) = (words(&["node", "x.js"]), words(&["wget", "-q"]), words(&["sh"]));
    let queries = policy.queries(&command, Path::new(PROJECT), Some(&health), Some(&stop));
    let asked: Vec<_> = queries.iter().map(|(purpose, query)| (*purpose, query.word.as_str())).collect();
    assert_eq!(asked, [(Purpose::Command, "node"), (Purpose::Health, "wget"), (Purpose::Stop, "sh")]);
    let chain = machine.resolve(&queries[1].1).unwrap();
    let problem = policy.permit(Purpose::Health, &chain).unwrap_err();
    assert!(problem.message.starts_with("the health command `wget`"), "{}", problem.message);
}

#[test]
fn the_agents_preset_allows_its_list_and_no_shell() {
    let machine = Machine::usual();
    let policy = machine.policy("[policy]\npreset = 'agents'\n");
    for word in ["node", "npm", "python3", "mvn"] {
        assert_eq!(machine.refused(&policy, word), None, "{word}");
    }
    for word in ["sh", "/bin/sh", "./server", "wget"] {
        assert!(machine.refused(&policy, word).is_some(), "{word}");
    }
    assert_eq!(policy.on_exec_away(), OnExecAway::Stop);
    assert!(policy.wants_git_workdir());
}

#[test]
fn allowing_shells_allows_the_shell_that_is_run() {
    let machine = Machine::usual();
    let policy = machine.policy("[policy]\nallow_shell = true\nexecutables = ['node']\n");
    assert_eq!(machine.refused(&policy, "/bin/sh"), None);
    let one = machine.policy_of(&Config::default(), one_user(&["/usr/bin"]), &[]);
    assert_eq!(machine.refused(&one, "/bin/sh"), None);
}

#[test]
fn a_policy_has_changed_when_what_it_is_made_from_has() {
    let machine = Machine::usual();
    let mut unresolved = Policy::in_force(&Config::default(), Trust::Strangers, &[]);
    assert_eq!(unresolved, machine.policy(""));
    unresolved.resolve_entries(&mut |query| machine.resolve(query));
    assert_ne!(unresolved, machine.policy("[policy]\nmax_ttl = '1d'\n"));
    assert_ne!(unresolved, machine.policy_of(&Config::default(), Trust::Strangers, &["nc"]));
}

#[test]
fn trust_that_is_judged_anew_makes_another_policy_if_it_has_changed() {
    let machine = Machine::usual();
    let config = config_of("[policy]\nmax_ttl = '1d'\n");
    let policy = machine.policy_of(&config, one_user(&["/usr/bin"]), &["wget"]);
    assert_eq!(policy.judged_anew(one_user(&["/usr/bin"])), None);
    let mut strict = policy.judged_anew(Trust::Strangers).unwrap();
    assert_eq!(strict, machine.policy_of(&config, Trust::Strangers, &["wget"]));
    strict.resolve_entries(&mut |query| machine.resolve(query));
    assert_eq!(machine.refused(&policy, "./server"), None);
    assert_eq!(machine.refused(&strict, "./server").as_deref(), Some(code::EXEC_NOT_ALLOWED));
    assert_eq!(machine.refused(&strict, "wget"), None, "what this run allows stays allowed");
}
