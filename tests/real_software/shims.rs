//! Python and Node behind the shims of version managers: a script that executes a manager that executes the runtime.
//!
//! The layouts of pyenv and of nvm are made here, around the runtimes that are installed, so that what they do is
//! always tested; the real pyenv and npm's own `node` package join in where they are there (`.ci/run` installs the
//! latter, and says where in `RECONCILE_TEST_NPM_BIN`).

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::free_port;
use super::support::{As, World, is_alive, nobody};

struct Service {
    name: &'static str,
    /// What its leader must have become.
    runtime: PathBuf,
}

/// A world of one user who owns all of it, without a configuration.
fn world_of_one_user() -> World {
    let is_root = nix::unistd::Uid::effective().is_root();
    let world = World::run_as(if is_root { As::Nobody } else { As::Caller });
    world.config("");
    world
}

/// The runtime itself, not a shim: asked for where it is.
fn runtime(program: &str, print_path: &[&str]) -> Option<PathBuf> {
    let output = std::process::Command::new(program).args(print_path).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    std::fs::canonicalize(path.trim()).ok().filter(|_| output.status.success())
}

fn python() -> Option<PathBuf> {
    let print = ["-c", "import sys; print(sys.executable)"];
    let found = runtime("/usr/bin/python3", &print).or_else(|| runtime("python3", &print));
    if found.is_none() {
        eprintln!("skipped: python3 is not installed");
    }
    found
}

fn node() -> Option<PathBuf> {
    let found = runtime("node", &["-p", "process.execPath"]);
    if found.is_none() {
        eprintln!("skipped: node is not installed");
    }
    found
}

fn script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/usr/bin/env bash\nset -e\n{text}")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn link(runtime: &Path, at: &Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    symlink(runtime, at).unwrap();
}

/// As pyenv lays it out: every shim is the same script, which goes by the name that it was called by.
fn pyenv(world: &mut World, python: &Path) {
    let root = world.path("home/.pyenv");
    link(python, &root.join("versions/3.0.0/bin/python3"));
    let manager = root.join("libexec/pyenv");
    script(
        &manager,
        &format!(
            "[ \"$1\" = exec ]; program=\"$2\"; shift 2\nexec \"{}/versions/3.0.0/bin/$program\" \"$@\"\n",
            root.display()
        ),
    );
    let shim = format!("program=\"${{0##*/}}\"\nexec \"{}\" exec \"$program\" \"$@\"\n", manager.display());
    script(&root.join("shims/python3"), &shim);
    world.search_first(&root.join("shims"));
}

/// As nvm lays it out, with the wrapper that people put into their PATH to do without its shell function.
fn nvm(world: &mut World, node: &Path) {
    let root = world.path("home/.nvm");
    link(node, &root.join("versions/node/v1.0.0/bin/node"));
    script(
        &root.join("nvm-exec"),
        &format!("export PATH=\"{}/versions/node/v1.0.0/bin:$PATH\"\nexec \"$@\"\n", root.display()),
    );
    script(
        &world.path("home/bin/node"),
        &format!("exec \"{}/nvm-exec\" \"${{0##*/}}\" \"$@\"\n", root.display()),
    );
    world.search_first(&world.path("home/bin"));
}

fn give_home_to_nobody(world: &World) {
    if nix::unistd::Uid::effective().is_root() {
        give(&world.path("home"));
    }
}

fn give(path: &Path) {
    let (uid, gid) = nobody();
    nix::unistd::fchownat(
        nix::fcntl::AT_FDCWD,
        path,
        Some(uid),
        Some(gid),
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::read_dir(path).unwrap().flatten().for_each(|entry| give(&entry.path()));
    }
}

fn python_server(world: &World, name: &str, command: &str) {
    let port = free_port();
    world.manifest(
        &format!("{name}.toml"),
        &format!(
            "[service.{name}]\ncommand = [\"{command}\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \
             \"{port}\"]\nurl = \"http://127.0.0.1:{port}\"\nhealth = \"/\"\n"
        ),
    );
}

fn node_server(world: &World, name: &str, command: &str) {
    let port = free_port();
    let program = format!("require('http').createServer((q, r) => r.end('ok')).listen({port}, '127.0.0.1')");
    world.manifest(
        &format!("{name}.toml"),
        &format!(
            "[service.{name}]\ncommand = [\"{command}\", \"-e\", \"{program}\"]\n\
             url = \"http://127.0.0.1:{port}\"\nhealth = \"/\"\n"
        ),
    );
}

/// Up and ready as the runtime itself, without drift; adopted after a crash of ours; gone after `down`.
fn live_through(world: &mut World, services: &[Service]) {
    world.run(&["--once", "--timeout", "60s"]).expect_code(0);
    let mut pids = Vec::new();
    for Service { name, runtime } in services {
        let status = world.service_status(name).unwrap();
        assert_eq!(status["phase"], "ready", "{name}\n{}", world.describe());
        assert_eq!(status["drift"].as_array().unwrap().len(), 0, "{status}");
        let pid = world.pid(name).unwrap();
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(&exe, runtime, "{name}");
        pids.push(pid);
    }
    world.watch();
    world.kill_watcher();
    world.watch();
    for (Service { name, .. }, pid) in services.iter().zip(&pids) {
        world.until_phase(name, "ready");
        let status = world.service_status(name).unwrap();
        assert_eq!((&status["pid"], &status["restarts"]), (&(*pid).into(), &0.into()), "{status}");
        assert_eq!(status["drift"].as_array().unwrap().len(), 0, "{status}");
    }
    world.run(&["down"]).expect_code(0);
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{}", world.describe());
}

#[test]
fn servers_behind_shims_are_known_as_what_they_become() {
    let mut world = world_of_one_user();
    let mut services = Vec::new();
    if let Some(python) = python() {
        pyenv(&mut world, &python);
        python_server(&world, "python", "python3");
        services.push(Service { name: "python", runtime: python });
    }
    if let Some(node) = node() {
        nvm(&mut world, &node);
        node_server(&world, "node", "node");
        services.push(Service { name: "node", runtime: node });
    }
    give_home_to_nobody(&world);
    live_through(&mut world, &services);
}

#[test]
fn a_server_behind_the_real_pyenv_is_known_as_what_it_becomes() {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let shims = home.join(".pyenv/shims");
    let print = ["-c", "import sys; print(sys.executable)"];
    let Some(python) = runtime(shims.join("python3").to_str().unwrap(), &print) else {
        eprintln!("skipped: there is no pyenv with a python3 in {}", shims.display());
        return;
    };
    let mut world = World::new();
    world.search_first(&shims);
    world.config(&format!(
        "[policy]\nexecutables = [\"python3\", \"bash\", \"{}/versions/*/bin/python3*\"]\n\
         search_path = [\"{}\", \"/usr/bin\", \"/bin\"]\n",
        home.join(".pyenv").display(),
        shims.display()
    ));
    python_server(&world, "python", "python3");
    live_through(&mut world, &[Service { name: "python", runtime: python }]);
}

#[test]
fn a_server_in_the_node_of_npm_is_known_as_what_it_becomes() {
    let Some(bin) = std::env::var_os("RECONCILE_TEST_NPM_BIN").map(PathBuf::from) else {
        eprintln!("skipped: RECONCILE_TEST_NPM_BIN does not name the .bin of npm's package `node`");
        return;
    };
    let mut world = World::new();
    world.search_first(&bin);
    world.config(&format!("[policy]\nexecutables = [\"node\"]\nsearch_path = [\"{}\"]\n", bin.display()));
    node_server(&world, "node", "node");
    let node = std::fs::canonicalize(bin.join("node")).unwrap();
    live_through(&mut world, &[Service { name: "node", runtime: node }]);
}

#[test]
fn a_refusal_on_the_way_through_a_shim_names_its_link_and_the_line_that_allows_it() {
    let Some(python) = python() else { return };
    let mut world = world_of_one_user();
    pyenv(&mut world, &python);
    give_home_to_nobody(&world);
    python_server(&world, "python", "python3");
    let shims = world.path("home/.pyenv/shims");
    let policy = |executables: &str| {
        let search_path = format!("search_path = [\"{}\", \"/usr/bin\", \"/bin\"]", shims.display());
        world.config(&format!("[policy]\nexecutables = [{executables}]\n{search_path}\n"));
    };
    policy("\"python3\"");
    let run = world.once().expect_code(4);
    for told in ["`bash`", "python3", "executables"] {
        assert!(run.stderr.contains(told), "{told}: {run:?}");
    }
    // What is executed in the end is not on the search path, and not listed.
    let elsewhere = world.path("home/.pyenv/versions/3.0.0/bin/python3");
    std::fs::remove_file(&elsewhere).unwrap();
    std::fs::copy(&python, &elsewhere).unwrap();
    policy("\"python3\", \"bash\"");
    world.once().expect_code(0);
    let status = world.service_status("python").unwrap();
    let drift = &status["drift"][0];
    assert_eq!(drift["code"], "exec-away", "{status}");
    let message = drift["message"].as_str().unwrap();
    assert!(message.contains(elsewhere.to_str().unwrap()) && message.contains("`executables`"), "{message}");
    policy(&format!("\"python3\", \"bash\", \"{}\"", elsewhere.display()));
    world.once().expect_code(0);
    let allowed = world.service_status("python").unwrap();
    assert_eq!((&allowed["drift"], &allowed["pid"]), (&serde_json::json!([]), &status["pid"]), "{allowed}");
}
