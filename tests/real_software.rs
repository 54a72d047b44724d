//! Real servers, in one manifest directory with real health checks; under version managers in `shims`,
//! asleep until they are asked for in `on_demand`.
//!
//! A program that is not installed is left out with a message; CI installs them.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

#[path = "real_software/leases.rs"]
mod leases;
#[path = "real_software/on_demand.rs"]
mod on_demand;
#[path = "real_software/shims.rs"]
mod shims;

use std::net::TcpListener;
use std::path::Path;

use support::{World, is_alive, is_missing};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn nginx(world: &World) -> Option<&'static str> {
    if is_missing("nginx") {
        return None;
    }
    let port = free_port();
    let dir = world.path("nginx");
    std::fs::create_dir_all(dir.join("html")).unwrap();
    std::fs::write(dir.join("html/index.html"), "hello").unwrap();
    let root = dir.display();
    let user = if nix::unistd::Uid::effective().is_root() { "user root;" } else { "" };
    std::fs::write(
        dir.join("nginx.conf"),
        format!(
            "daemon off; {user} pid {root}/pid; error_log stderr; worker_processes 2;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p;\n\
             fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             server {{ listen 127.0.0.1:{port}; root {root}/html; }} }}\n"
        ),
    )
    .unwrap();
    world.manifest(
        "nginx.toml",
        &format!(
            "[service.nginx]\ncommand = [\"nginx\", \"-p\", \"{root}\", \"-c\", \"{root}/nginx.conf\"]\n\
             url = \"http://127.0.0.1:{port}\"\nhealth = \"/\"\nstop = {{ signal = \"QUIT\" }}\n"
        ),
    );
    Some("nginx")
}

fn redis(world: &World) -> Option<&'static str> {
    if is_missing("redis-server") {
        return None;
    }
    let port = free_port();
    world.manifest(
        "redis.toml",
        &format!(
            "[service.redis]\ncommand = [\"redis-server\", \"--port\", \"{port}\", \"--bind\", \"127.0.0.1\", \
             \"--save\", \"\"]\n\
             health = {{ command = [\"redis-cli\", \"-p\", \"{port}\", \"ping\"], expect_regex = \"PONG\" }}\n"
        ),
    );
    Some("redis")
}

fn python(world: &World) -> Option<&'static str> {
    if is_missing("python3") {
        return None;
    }
    let port = free_port();
    world.manifest(
        "python.toml",
        &format!(
            "[service.python]\ncommand = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{port}\"]\n\
             health = {{ host = \"127.0.0.1\", port = {port} }}\nurl = \"http://127.0.0.1:{port}\"\n"
        ),
    );
    Some("python")
}

fn postgres(world: &World) -> Option<&'static str> {
    let bin =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().next()?.path().join("bin");
    if !bin.join("initdb").exists() || !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: PostgreSQL's initdb is not installed, or we are not root");
        return None;
    }
    let postgres = nix::unistd::User::from_name("postgres").unwrap()?;
    let data = world.path("pg");
    std::fs::create_dir(&data).unwrap();
    nix::unistd::chown(&data, Some(postgres.uid), Some(postgres.gid)).unwrap();
    open_to_all(world.path("").as_path());
    let mut initdb = std::process::Command::new("setpriv");
    initdb
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .arg(bin.join("initdb"))
        .args(["--no-sync", "-A", "trust", "-D"])
        .arg(&data)
        .current_dir("/");
    world.finish(initdb).expect_code(0);
    let (port, data, bin) = (free_port(), data.display(), bin.display());
    world.manifest(
        "postgres.toml",
        &format!(
            "[service.postgres]\ncommand = [\"{bin}/postgres\", \"-D\", \"{data}\", \"-p\", \"{port}\", \
             \"-k\", \"{data}\", \"-c\", \"listen_addresses=127.0.0.1\"]\nuser = \"postgres\"\ncwd = \"{data}\"\n\
             stop = {{ signal = \"INT\" }}\n\
             health = {{ command = [\"{bin}/pg_isready\", \"-h\", \"127.0.0.1\", \"-p\", \"{port}\"] }}\n"
        ),
    );
    Some("postgres")
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn real_servers_come_up_ready_survive_us_and_leave_nothing_behind() {
    let mut world = World::new();
    world.config(
        "[policy]\nexecutables = [\"nginx\", \"redis-server\", \"redis-cli\", \"python3\", \"bash\", \
         \"/usr/lib/postgresql/*/bin/*\"]\n",
    );
    let names: Vec<&str> =
        [nginx(&world), redis(&world), python(&world), postgres(&world)].into_iter().flatten().collect();
    world.run(&["--once", "--timeout", "60s"]).expect_code(0);
    for name in &names {
        assert_eq!(world.phase(name), "ready", "{name}\n{}", world.describe());
    }
    let pids: Vec<i32> = names.iter().map(|name| world.pid(name).unwrap()).collect();
    world.watch();
    world.kill_watcher();
    world.watch();
    assert_eq!(names.iter().map(|name| world.pid(name).unwrap()).collect::<Vec<_>>(), pids);
    let everything = world.processes();
    world.run(&["down"]).expect_code(0);
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{}", world.describe());
    let watcher = world.watcher().id() as i32;
    let left: Vec<i32> = everything.into_iter().filter(|pid| *pid != watcher && is_alive(*pid)).collect();
    assert!(left.len() <= 1, "only the keeper may be about to leave: {left:?}\n{}", world.describe());
}
