//! Two test runs at once over one PostgreSQL, which is there for them alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::support::{As, World, is_alive, is_missing, nobody, read};

/// Debian has its programs, but for those of clients, in a directory of each version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    directories.sort();
    let found = directories.into_iter().rev().find(|dir| dir.join("initdb").is_file());
    if found.is_none() {
        is_missing("/usr/lib/postgresql/*/bin/initdb");
    }
    found
}

/// It refuses to run as root.
fn world() -> World {
    let is_root = nix::unistd::Uid::effective().is_root();
    World::run_as(if is_root { As::Nobody } else { As::Caller })
}

fn initialise(world: &World, programs: &Path) {
    use std::os::unix::process::CommandExt;
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args(["-D", "data", "-U", "test", "-A", "trust", "--no-sync", "--no-locale"]);
    initdb.current_dir(world.project()).env("HOME", world.path("home"));
    if nix::unistd::Uid::effective().is_root() {
        initdb.uid(nobody().0.as_raw()).gid(nobody().1.as_raw());
    }
    let output = initdb.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn begin(world: &World, name: &str, query: &str) -> Child {
    let script = format!(
        "psql -tAq -U test -d \"$RECONCILE_POSTGRES_URL\" -c \"{query}\" > {name}.out && touch {name}.runs\n\
         while ! test -e {name}.go; do sleep 0.02; done"
    );
    let mut command = world.command();
    command.args(["run", "--with", "postgres", "--", "sh", "-c", &script]);
    command.spawn().unwrap()
}

fn until_runs(world: &World, name: &str) {
    world.until(&format!("{name} has its answer"), |world| {
        world.project().join(format!("{name}.runs")).exists()
    });
}

fn let_go(world: &World, name: &str, mut run: Child) {
    std::fs::write(world.project().join(format!("{name}.go")), "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0), "{}", world.describe());
}

/// Ancestor D: services shared between runs, an ephemeral one stopped with the last release.
#[test]
fn two_runs_at_once_share_one_postgresql_which_stops_after_the_last() {
    let Some(programs) = programs() else { return };
    if is_missing("psql") {
        return;
    }
    let world = world();
    initialise(&world, &programs);
    let (postgres, is_ready) = (programs.join("postgres"), programs.join("pg_isready"));
    let (postgres, is_ready) = (postgres.display(), is_ready.display());
    world.config(&format!("[policy]\nexecutables = [\"{postgres}\", \"{is_ready}\"]\n"));
    world.manifest(
        "postgres.toml",
        &format!(
            "[service.postgres]\n\
             command = [\"{postgres}\", \"-D\", \"data\", \"-p\", \"{{{{ports.own}}}}\", \"-k\", \"\"]\n\
             ports.own = \"auto\"\nurl = \"postgresql://127.0.0.1:{{{{ports.own}}}}/postgres\"\n\
             health = {{ command = [\"{is_ready}\", \"-h\", \"127.0.0.1\", \"-p\", \"{{{{ports.own}}}}\"] }}\n\
             stop.signal = \"INT\"\nlifecycle = \"ephemeral\"\n"
        ),
    );
    let one = begin(&world, "one", "create table t as select 42 as answer; select answer from t");
    until_runs(&world, "one");
    let postmaster = world.pid("postgres").unwrap();
    let other = begin(&world, "other", "update t set answer = answer + 1 returning answer");
    until_runs(&world, "other");
    let answer = |name: &str| read(&world.project().join(format!("{name}.out"))).trim().to_owned();
    assert_eq!((answer("one"), answer("other")), ("42".to_owned(), "43".to_owned()), "it is the same one");

    let_go(&world, "one", one);
    assert!(is_alive(postmaster) && world.pid("postgres") == Some(postmaster), "{}", world.describe());
    let_go(&world, "other", other);
    assert!(!is_alive(postmaster));
    let status = world.service_status("postgres").unwrap();
    assert_eq!(
        (&status["reason"], &status["last_exit"]["code"]),
        (&"on-demand".into(), &0.into()),
        "{status}"
    );

    // What it was told survives it: the next one is started anew.
    let third = begin(&world, "third", "select answer from t");
    until_runs(&world, "third");
    assert_eq!(answer("third"), "43");
    let_go(&world, "third", third);
}
