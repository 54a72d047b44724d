//! Resolution against real files.

use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;
use crate::policy::{Policy, Purpose, Trust, parse_config};

/// A directory of executables.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn program(&self, name: &str) -> PathBuf {
        self.write(name, "\x7fELF", 0o755)
    }

    fn query(&self, word: &str, search_path: &[&str]) -> ExecQuery {
        ExecQuery {
            word: word.to_owned(),
            cwd: self.path(""),
            search_path: search_path.iter().map(|dir| self.path(dir)).collect(),
            digest: false,
        }
    }

    /// The paths, links followed, of what `word` executes.
    fn chain(&self, word: &str, search_path: &[&str]) -> Result<Vec<PathBuf>, ResolveError> {
        let chain = resolve(&self.query(word, search_path))?;
        Ok(chain.into_iter().map(|file| file.file.path).collect())
    }
}

#[test]
fn a_bare_name_is_found_on_the_search_path_and_never_in_the_working_directory() {
    let world = World::new();
    world.program("node");
    let first = world.program("a/node");
    world.program("b/node");
    assert_eq!(world.chain("node", &["none", "a", "b"]), Ok(vec![first]));
    let missing = world.chain("node", &["none"]).unwrap_err();
    assert!(matches!(&missing, ResolveError::NotFound { word, .. } if word == "node"), "{missing}");
    assert!(missing.to_string().contains("none"), "{missing}");
}

#[test]
fn relative_directories_of_the_search_path_are_passed_over() {
    let world = World::new();
    world.program("bin/node");
    for dir in ["bin", ".", ""] {
        let query = ExecQuery { search_path: vec![dir.into()], ..world.query("node", &[]) };
        assert!(matches!(resolve(&query), Err(ResolveError::NotFound { .. })), "{dir:?}");
    }
}

#[test]
fn a_path_starts_at_the_working_directory_and_loses_its_dots() {
    let world = World::new();
    let server = world.program("bin/server");
    let files = resolve(&world.query("./bin/../bin/server", &[])).unwrap();
    assert_eq!((&files[0].found, files[0].called.as_str()), (&server, "./bin/../bin/server"));
    assert_eq!(world.chain(server.to_str().unwrap(), &[]), Ok(vec![server]));
}

#[test]
fn dots_after_a_link_lead_where_the_kernel_goes() {
    let world = World::new();
    world.program("outside/tool");
    world.program("project/tool");
    std::fs::create_dir(world.path("outside/deep")).unwrap();
    symlink(world.path("outside/deep"), world.path("project/link")).unwrap();
    let query = ExecQuery { cwd: world.path("project"), ..world.query("link/../tool", &[]) };
    let files = resolve(&query).unwrap();
    assert_eq!(
        (&files[0].found, &files[0].file.path),
        (&world.path("outside/tool"), &world.path("outside/tool"))
    );
}

#[test]
fn links_are_followed_for_the_file_and_kept_for_the_name() {
    let world = World::new();
    let busybox = world.program("lib/busybox");
    std::fs::create_dir(world.path("bin")).unwrap();
    symlink(&busybox, world.path("bin/wget")).unwrap();
    std::fs::hard_link(&busybox, world.path("bin/nc")).unwrap();
    let by_link = resolve(&world.query("wget", &["bin"])).unwrap().remove(0);
    let by_hard_link = resolve(&world.query("nc", &["bin"])).unwrap().remove(0);
    assert_eq!((&by_link.found, &by_link.file.path), (&world.path("bin/wget"), &busybox));
    assert_eq!((by_link.found_in, by_link.called.as_str()), (world.path("bin"), "wget"));
    assert_eq!(by_link.file.inode, by_hard_link.file.inode);
    assert_eq!(by_hard_link.called, "nc");
}

#[test]
fn what_cannot_be_executed_says_why() {
    let world = World::new();
    world.write("bin/data", "x", 0o644);
    std::fs::create_dir_all(world.path("bin/dir")).unwrap();
    symlink(world.path("nowhere"), world.path("bin/dangling")).unwrap();
    symlink(world.path("bin/loop"), world.path("bin/loop")).unwrap();
    let error = |word: &str| resolve(&world.query(word, &["bin"])).unwrap_err();
    assert_eq!(error("data"), ResolveError::NotExecutable { path: world.path("bin/data") });
    assert_eq!(error("./bin/dir"), ResolveError::NotAFile { path: world.path("bin/dir") });
    assert!(matches!(error("dir"), ResolveError::NotFound { .. }));
    assert!(matches!(error("dangling"), ResolveError::NotFound { .. }));
    assert!(matches!(error("./bin/loop"), ResolveError::Unreadable { .. }));
    assert!(matches!(error("./bin/data/x"), ResolveError::NotFound { .. }));
    for word in ["", ".", "..", "./", "a\0b"] {
        assert!(resolve(&world.query(word, &["bin"])).is_err(), "{word:?}");
    }
}

#[test]
fn a_later_directory_is_used_where_an_earlier_file_cannot_be() {
    let world = World::new();
    world.write("a/tool", "x", 0o644);
    std::fs::create_dir_all(world.path("b/tool")).unwrap();
    let tool = world.program("c/tool");
    assert_eq!(world.chain("tool", &["a", "b", "c"]), Ok(vec![tool]));
    let refused = world.chain("tool", &["a", "b"]);
    assert_eq!(refused, Err(ResolveError::NotExecutable { path: world.path("a/tool") }));
}

#[test]
fn a_fifo_or_a_device_never_makes_us_wait() {
    let world = World::new();
    nix::unistd::mkfifo(&world.path("fifo"), Mode::from_bits_truncate(0o777)).unwrap();
    symlink("/dev/tty", world.path("tty")).unwrap();
    for name in ["./fifo", "./tty"] {
        assert!(matches!(resolve(&world.query(name, &[])), Err(ResolveError::NotAFile { .. })), "{name}");
    }
    assert!(open_regular(&world.path("fifo")).is_err());
    assert!(open_regular(Path::new("/dev/zero")).is_err());
}

#[test]
fn scripts_are_followed_to_their_last_interpreter() {
    let world = World::new();
    let node = world.program("bin/node");
    let runner = world.write("runner", &format!("#! {} --x\n", node.display()), 0o755);
    let script = world.write("script", &format!("#!{}\n", runner.display()), 0o755);
    let files = resolve(&world.query("./script", &[])).unwrap();
    let called: Vec<_> = files.iter().map(|file| (file.called.clone(), file.is_script)).collect();
    let expected = [
        ("./script".to_owned(), true),
        (runner.display().to_string(), true),
        (node.display().to_string(), false),
    ];
    assert_eq!(called, expected);
    assert_eq!(files[0].file.path, script);
}

#[test]
fn env_counts_as_the_name_on_the_search_path() {
    let world = World::new();
    let node = world.program("bin/node");
    for line in ["/usr/bin/env node", "/bin/env node", "/usr/bin/env -S node --x"] {
        let script = world.write("script", &format!("#!{line}\n"), 0o755);
        assert_eq!(world.chain("./script", &["bin"]), Ok(vec![script, node.clone()]), "{line}");
    }
    world.write("script", "#!/usr/bin/env nodes\n", 0o755);
    assert!(matches!(world.chain("./script", &["bin"]), Err(ResolveError::NotFound { .. })));
    world.write("script", "#!/usr/bin/env -i node\n", 0o755);
    assert!(matches!(world.chain("./script", &["bin"]), Err(ResolveError::Unreadable { .. })));
}

#[test]
fn an_env_of_ones_own_is_an_interpreter_like_others() {
    let world = World::new();
    let env = world.program("env");
    let script = world.write("script", &format!("#!{} node\n", env.display()), 0o755);
    assert_eq!(world.chain("./script", &[]), Ok(vec![script, env]));
}

#[test]
fn relative_interpreters_start_at_the_working_directory() {
    let world = World::new();
    let tool = world.program("tool");
    let script = world.write("script", "#!tool\n", 0o755);
    assert_eq!(world.chain("./script", &[]), Ok(vec![script.clone(), tool]));

    let mut resolver = Resolver::default();
    let absolute = script.to_str().unwrap();
    assert!(resolver.resolve(&world.query(absolute, &[])).is_ok());
    let elsewhere = ExecQuery { cwd: PathBuf::from("/"), ..world.query(absolute, &[]) };
    assert!(resolver.resolve(&elsewhere).is_err(), "the answer was for another directory");
}

#[test]
fn interpreters_that_are_not_there_or_never_end_are_errors() {
    let world = World::new();
    world.write("lost", "#!/no/such/interpreter\n", 0o755);
    world.write("empty", "#!\n", 0o755);
    world.write("windows", "#!/bin/sh\r\n", 0o755);
    let own = world.path("itself");
    world.write("itself", &format!("#!{}\n", own.display()), 0o755);
    assert!(matches!(world.chain("./lost", &[]), Err(ResolveError::NotFound { .. })));
    assert!(matches!(world.chain("./empty", &[]), Err(ResolveError::Unreadable { .. })));
    assert!(world.chain("./windows", &[]).unwrap_err().to_string().contains("Windows"));
    assert_eq!(world.chain("./itself", &[]), Err(ResolveError::TooDeep { path: own }));
}

#[test]
fn four_interpreters_are_followed_and_no_fifth() {
    let world = World::new();
    let mut last = world.program("end");
    for depth in 1..=5 {
        last = world.write(&format!("s{depth}"), &format!("#!{}\n", last.display()), 0o755);
    }
    assert_eq!(world.chain("./s4", &[]).unwrap().len(), 5);
    assert_eq!(world.chain("./s5", &[]), Err(ResolveError::TooDeep { path: last }));
}

#[test]
fn it_says_who_can_change_a_file() {
    let world = World::new();
    for (mode, writable) in [(0o755, false), (0o757, true), (0o700, false)] {
        world.write("tool", "x", mode);
        let file = resolve(&world.query("./tool", &[])).unwrap().remove(0);
        assert_eq!(file.writable_by_others, writable, "{mode:o}");
        assert_eq!(file.owner_uid, nix::unistd::geteuid().as_raw());
    }
}

#[test]
fn the_content_is_hashed_where_it_is_asked_for_and_anew_when_it_changes() {
    let world = World::new();
    let mut resolver = Resolver::default();
    let query = ExecQuery { digest: true, ..world.query("./tool", &[]) };
    let mut digest_of = |content: &str| {
        world.write("tool", content, 0o755);
        resolver.resolve(&query).unwrap().remove(0).blake3
    };
    for content in ["one", "two"] {
        let expected = blake3::hash(content.as_bytes()).to_hex().to_string();
        assert_eq!(digest_of(content), Some(expected));
    }
    assert_eq!(resolver.digests.len(), 1, "one for each file");
    assert_eq!(resolve(&world.query("./tool", &[])).unwrap()[0].blake3, None);
}

#[test]
fn an_answer_that_is_kept_is_dropped_when_its_file_is_replaced() {
    let world = World::new();
    world.program("bin/node");
    let mut resolver = Resolver::default();
    let query = world.query("node", &["bin"]);
    let before = resolver.resolve(&query).unwrap();
    assert_eq!(resolver.resolve(&query), Ok(before.clone()));
    assert_eq!(resolver.kept.len(), 1);

    let new = world.program("bin/new");
    std::fs::rename(new, world.path("bin/node")).unwrap();
    let after = resolver.resolve(&query).unwrap();
    assert_ne!(after[0].file.inode, before[0].file.inode);

    std::fs::set_permissions(world.path("bin/node"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(resolver.resolve(&query), Err(ResolveError::NotExecutable { .. })));
    std::fs::remove_file(world.path("bin/node")).unwrap();
    assert!(matches!(resolver.resolve(&query), Err(ResolveError::NotFound { .. })));
    assert!(resolver.kept.is_empty());
}

#[test]
fn one_runtime_is_kept_once_for_all_working_directories() {
    let world = World::new();
    world.program("bin/node");
    world.program("p1/server");
    let mut resolver = Resolver::default();
    for project in ["p1", "p2"] {
        let query = ExecQuery { cwd: world.path(project), ..world.query("node", &["bin"]) };
        resolver.resolve(&query).unwrap();
    }
    assert_eq!(resolver.kept.len(), 1);
    let server = |project: &str| ExecQuery { cwd: world.path(project), ..world.query("./server", &[]) };
    assert!(resolver.resolve(&server("p1")).is_ok());
    assert!(resolver.resolve(&server("p2")).is_err(), "a relative path is another file elsewhere");
}

/// The policy of `config`, with its entries resolved on this machine.
fn policy_of(config: &str) -> Policy {
    let (config, problems) = parse_config(config);
    assert_eq!(problems, []);
    let mut policy = Policy::in_force(&config, Trust::Strangers, &[]);
    let mut resolver = Resolver::default();
    policy.resolve_entries(&mut |query| resolver.resolve(query));
    policy
}

/// The code of the refusal, judged on real files; `None` if it is allowed.
fn refused(world: &World, policy: &Policy, word: &str) -> Option<String> {
    let queries = policy.queries(&[word.to_owned()], &world.path("project"), None, None);
    policy.permit(Purpose::Command, &resolve(&queries[0].1).unwrap()).err().map(|problem| problem.code)
}

#[test]
fn a_policy_sees_through_names_links_and_scripts() {
    let world = World::new();
    let busybox = world.program("bin/busybox");
    world.program("bin/python3.11");
    world.program("project/node");
    world.program("bin/node");
    for (link, target) in [
        ("bin/sh", "bin/busybox"),
        ("bin/python3", "bin/python3.11"),
        ("project/python", "bin/python3"),
        ("project/wget", "bin/busybox"),
        ("project/sh", "bin/busybox"),
    ] {
        symlink(world.path(target), world.path(link)).unwrap();
    }
    std::fs::hard_link(&busybox, world.path("project/nc")).unwrap();
    world.write("project/tool", "#!/usr/bin/env -S node --x\n", 0o755);
    world.write("project/other", &format!("#!{}\n", world.path("project/nc").display()), 0o755);

    let bin = world.path("bin");
    let project = world.path("project");
    let policy = policy_of(&format!(
        "[policy]\nsearch_path = ['{}']\nexecutables = ['sh', 'node', 'python3', '{}/tool', '{}/other']\n",
        bin.display(),
        project.display(),
        project.display(),
    ));
    for word in ["sh", "./sh", "node", "python3", "./python", "./tool"] {
        assert_eq!(refused(&world, &policy, word), None, "{word}");
    }
    for (word, code) in [
        ("./wget", "exec-other-name"),
        ("./nc", "exec-other-name"),
        ("busybox", "exec-other-name"),
        ("./node", "exec-other-file"),
        ("./other", "exec-other-name"),
    ] {
        assert_eq!(refused(&world, &policy, word).as_deref(), Some(code), "{word}");
    }
}

#[test]
fn a_pin_is_held_against_the_real_content() {
    let world = World::new();
    let tool = world.write("project/tool", "one", 0o755);
    let digest = blake3::hash(b"one").to_hex();
    let config =
        format!("[policy]\nexecutables = [{{ path = '{}', blake3 = '{digest}' }}]\n", tool.display());
    let policy = policy_of(&config);
    assert_eq!(refused(&world, &policy, "./tool"), None);
    world.write("project/tool", "two", 0o755);
    assert_eq!(refused(&world, &policy, "./tool").as_deref(), Some("pin-mismatch"));
    assert_eq!(refused(&world, &policy_of(&config), "./tool").as_deref(), Some("pin-mismatch"));
}

/// What the kernel makes of a script: its words, or the error number.
fn run(path: &Path) -> Result<String, i32> {
    for _ in 0..1000 {
        match std::process::Command::new(path).output() {
            Ok(output) => return Ok(String::from_utf8(output.stdout).unwrap()),
            // Another test may have forked while we had the script open for writing.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => std::thread::yield_now(),
            Err(error) => return Err(error.raw_os_error().unwrap()),
        }
    }
    panic!("{} stays busy", path.display());
}

#[test]
fn the_kernel_reads_the_same_out_of_a_script() {
    let world = World::new();
    let echo = "/bin/echo";
    let long = "x".repeat(shebang::HEAD_BYTES);
    for head in [
        format!("#!{echo}\n"),
        format!("#!{echo}"),
        format!("#! \t{echo}  a  b \t\n"),
        format!("#!{echo} -S a\r\n"),
        format!("#!{echo}\0 a\n"),
        format!("#!{echo} a\0 b\n"),
        format!("#!{echo} {long}"),
        format!("#!{echo} {long}\n"),
        format!("#!{echo} {}\n", "y".repeat(shebang::HEAD_BYTES - 13)),
        format!("#!{echo} {}\n", "y".repeat(shebang::HEAD_BYTES - 12)),
        format!("#!/{long}\n"),
        format!("#!{echo}\r\n"),
        "#!/no/such/interpreter\n".to_owned(),
        "#!\n".to_owned(),
        "#!   \n".to_owned(),
        "#!".to_owned(),
    ] {
        let script = world.write("script", &head, 0o755);
        let ours = match shebang::parse(&head.as_bytes()[..head.len().min(shebang::HEAD_BYTES)]) {
            Shebang::Interpreter { path, argument } if path == echo => {
                let words = argument.into_iter().chain([script.display().to_string()]);
                Some(words.collect::<Vec<_>>().join(" ") + "\n")
            }
            _ => None,
        };
        assert_eq!(run(&script).ok(), ours, "{}", head.escape_debug());
        assert_eq!(resolve(&world.query("./script", &[])).is_ok(), ours.is_some(), "{}", head.escape_debug());
    }
}
