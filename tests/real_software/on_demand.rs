//! Real servers that sleep until `curl` asks for them: Node on a socket that is passed to it, and Vite's dev server
//! behind the proxy, as projects have it in `node_modules/.bin` (`.ci/run` installs it there).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::free_port;
use super::support::{World, is_missing};

/// What `curl` prints of a page that must be there.
#[track_caller]
fn curl(url: &str) -> String {
    let output = Command::new("curl").args(["-sS", "--fail", "--max-time", "60", url]).output().unwrap();
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn reason(world: &World, name: &str) -> String {
    let status = world.service_status(name).unwrap_or_default();
    status["reason"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn until_it_sleeps(world: &World, name: &str) {
    world.until(&format!("{name} sleeps"), |world| {
        world.phase(name) == "stopped" && reason(world, name) == "on-demand"
    });
    assert_eq!(world.pid(name), None);
}

#[test]
fn a_node_server_is_started_by_curl_on_the_socket_that_it_is_passed() {
    if is_missing("node") || is_missing("curl") {
        return;
    }
    let mut world = World::new();
    world.config("[policy]\nexecutables = [\"node\"]\n");
    let port = free_port();
    std::fs::write(
        world.project().join("server.js"),
        "require('http').createServer((q, r) => r.end(`pid ${process.pid}`)).listen({ fd: 3 })\n",
    )
    .unwrap();
    world.manifest(
        "node.toml",
        &format!(
            "[service.node]\ncommand = [\"node\", \"server.js\"]\nsockets.http = \"127.0.0.1:{port}\"\n\
             start_settle = \"10ms\"\nactivation = {{ on = \"connection\", idle = \"1s\" }}\n"
        ),
    );
    world.watch();
    until_it_sleeps(&world, "node");
    let url = format!("http://127.0.0.1:{port}/");
    let first = curl(&url);
    assert!(first.starts_with("pid "), "{first}");
    until_it_sleeps(&world, "node");
    let second = curl(&url);
    assert_ne!(first, second, "the one that slept was another");
    world.run(&["down"]).expect_code(0);
}

/// The directory with Vite and the Node that runs it.
fn vite() -> Option<PathBuf> {
    let bin = std::env::var_os("RECONCILE_TEST_NPM_BIN").map(PathBuf::from)?;
    Some(bin).filter(|bin| bin.join("vite").exists())
}

fn page(project: &Path, text: &str) {
    let page = format!("<!doctype html><html><head></head><body>{text}</body></html>\n");
    std::fs::write(project.join("site/index.html"), page).unwrap();
}

/// The connection by which the browser is told of changes, past its handshake.
fn listen_for_changes(port: u16) -> TcpStream {
    let client = curl(&format!("http://127.0.0.1:{port}/@vite/client"));
    let token =
        client.split_once("wsToken = \"").and_then(|(_, rest)| rest.split_once('"')).expect("a token").0;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "GET /?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: vite-hmr\r\n\r\n"
    )
    .unwrap();
    read_until(&mut stream, "{\"type\":\"connected\"}");
    stream
}

#[track_caller]
fn read_until(stream: &mut TcpStream, wanted: &str) {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(wanted) {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended with {:?}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..read]);
    }
}

#[test]
fn a_vite_dev_server_is_started_by_curl_and_kept_by_the_browser_that_listens() {
    if is_missing("curl") {
        return;
    }
    let Some(bin) = vite() else {
        eprintln!("skipped: RECONCILE_TEST_NPM_BIN does not name a .bin of npm with `vite`");
        return;
    };
    let mut world = World::new();
    world.search_first(&bin);
    world.config(&format!(
        "[policy]\nexecutables = [\"node\", \"vite\", \"env\", \"sleep\"]\n\
         search_path = [\"{}\", \"/usr/bin\", \"/bin\"]\n",
        bin.display()
    ));
    std::fs::create_dir(world.project().join("site")).unwrap();
    page(&world.project(), "the first text");
    let port = free_port();
    world.manifest(
        "site.toml",
        &format!(
            "[service.site]\ncommand = [\"vite\", \"--host\", \"127.0.0.1\", \"--port\", \"{{{{ports.own}}}}\", \
             \"--strictPort\"]\ncwd = \"site\"\nports.own = \"auto\"\nsockets.http = \"127.0.0.1:{port}\"\n\
             health = {{ url = \"http://127.0.0.1:{{{{ports.own}}}}/\", start_interval = \"50ms\" }}\n\
             activation = {{ on = \"connection\", proxy = \"{{{{ports.own}}}}\", idle = \"1s\" }}\n"
        ),
    );
    world.watch();
    until_it_sleeps(&world, "site");
    let page_now = curl(&format!("http://127.0.0.1:{port}/"));
    assert!(page_now.contains("the first text") && page_now.contains("/@vite/client"), "{page_now}");

    let mut changes = listen_for_changes(port);
    let pid = world.pid("site");
    assert!(pid.is_some());
    // Another service that may be idle for as long has been so meanwhile.
    world.manifest(
        "clock.toml",
        "[service.clock]\ncommand = [\"sleep\", \"1000\"]\nstart_settle = \"10ms\"\n\
         activation = { on = \"request\", idle = \"1s\" }\n",
    );
    world.until("the clock is wound", |world| world.run(&["ensure", "clock"]).code == 0);
    until_it_sleeps(&world, "clock");
    page(&world.project(), "the second text");
    read_until(&mut changes, "full-reload");
    assert!(curl(&format!("http://127.0.0.1:{port}/")).contains("the second text"));
    assert_eq!(world.pid("site"), pid);

    let children = |world: &World| &world.processes_like("esbuild") & &world.processes();
    assert!(!children(&world).is_empty(), "it had one of its own");
    drop(changes);
    until_it_sleeps(&world, "site");
    world.until("its children went with it", |world| children(world).is_empty());
    world.run(&["down"]).expect_code(0);
}
