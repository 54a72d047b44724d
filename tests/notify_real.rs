//! Services that say how they are by sd_notify(3), with the real binary.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, SystemTime};

use support::{As, World, copy_program};

/// Says what it finds in the files `say0`, `say1` and so on, and `WATCHDOG=1` while there is a file `alive`. A word
/// makes a child of it say so.
const SPEAKER: &str = r#"
use Socket;
socket(my $socket, AF_UNIX, SOCK_DGRAM, 0) or die;
my $name = $ENV{NOTIFY_SOCKET};
$name =~ s/^@/\0/;
connect($socket, pack_sockaddr_un($name)) or die "connect: $!";
if (@ARGV && (my $child = fork())) { sleep 1000 while 1 }
my $said = 0;
while (1) {
    while (open my $file, '<', "say$said") {
        local $/;
        send($socket, <$file>, 0);
        $said++;
    }
    send($socket, 'WATCHDOG=1', 0) if -e 'alive';
    select(undef, undef, undef, 0.02);
}
"#;

struct Speaker {
    world: World,
    said: usize,
}

impl Speaker {
    fn new(who: As, arguments: &str, more: &str) -> Self {
        let world = World::run_as(who);
        world.config("[policy]\nexecutables = ['perl']\n");
        fs::write(world.project().join("speaker.pl"), SPEAKER).unwrap();
        let speaker = Self { world, said: 0 };
        speaker.declare(arguments, more);
        speaker
    }

    fn declare(&self, arguments: &str, more: &str) {
        let text = format!(
            "[service.web]\ncommand = 'perl speaker.pl {arguments}'\nstop.grace = '1s'\n\
             [service.web.health]\ntype = 'notify'\n{more}\n"
        );
        self.world.manifest("web.toml", &text);
    }

    fn say(&mut self, text: &str) {
        let project = self.world.project();
        let temporary = project.join("saying");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, project.join(format!("say{}", self.said))).unwrap();
        self.said += 1;
    }

    fn until_started(&self) {
        self.world.until("it is started", |world| world.pid("web").is_some());
    }

    fn until_status(&self, text: &str) {
        self.world.until(&format!("it says {text}"), |world| {
            world.service_status("web").is_some_and(|web| web["health"]["status"] == text)
        });
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let pid = self.world.pid("web").unwrap();
        let environ = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

#[test]
fn a_service_is_ready_when_it_says_so_and_what_it_is_at_is_shown() {
    let mut speaker = Speaker::new(As::Caller, "", "watchdog = '1h'");
    speaker.world.watch();
    speaker.until_started();
    speaker.say("STATUS=loading");
    speaker.until_status("loading");
    assert_eq!(speaker.world.phase("web"), "starting");
    speaker.say("READY=1\nSTATUS=serving");
    speaker.world.until_phase("web", "ready");
    speaker.until_status("serving");
    let (env, pid) = (speaker.environment(), speaker.world.pid("web").unwrap());
    assert_eq!(env["WATCHDOG_USEC"], "3600000000");
    assert_eq!(env["WATCHDOG_PID"], pid.to_string());
    let shown = speaker.world.run(&["status", "web"]).stdout;
    assert!(shown.contains("serving"), "{shown}");
    speaker.world.kill_watcher();
    let ledger = fs::read(speaker.world.state().join("ledger.journal")).unwrap();
    speaker.world.once().expect_code(0);
    assert_eq!(fs::read(speaker.world.state().join("ledger.journal")).unwrap(), ledger);
    assert_eq!(speaker.world.pid("web"), Some(pid));
}

/// A child of the service says so, with a cgroup and with a holder.
#[test]
fn what_is_said_while_no_reconciler_lives_is_heard_by_the_next() {
    for who in [As::Caller, As::Holders] {
        let mut speaker = Speaker::new(who, "child", "");
        speaker.world.watch();
        speaker.until_started();
        let pid = speaker.world.pid("web");
        speaker.world.kill_watcher();
        // More than fit into a socket that nobody reads.
        for n in 0..40 {
            speaker.say(&format!("STATUS=step {n}"));
        }
        speaker.say("READY=1");
        speaker.say("STATUS=done");
        speaker.world.watch();
        speaker.world.until_phase("web", "ready");
        speaker.until_status("done");
        assert_eq!(speaker.world.pid("web"), pid);
    }
}

#[test]
fn what_a_stranger_says_does_not_count() {
    let mut speaker = Speaker::new(As::Caller, "", "");
    speaker.world.watch();
    speaker.until_started();
    let address = speaker.environment()["NOTIFY_SOCKET"].clone();
    let name = SocketAddr::from_abstract_name(address.strip_prefix('@').unwrap()).unwrap();
    UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &name).unwrap();
    speaker.say("STATUS=still loading");
    speaker.until_status("still loading");
    assert_eq!(speaker.world.phase("web"), "starting");
    speaker.say("READY=1");
    speaker.world.until_phase("web", "ready");
}

#[test]
fn silence_beyond_the_watchdog_is_unhealthy() {
    let mut speaker = Speaker::new(As::Caller, "", "watchdog = '500ms'\non_unhealthy = 'report'");
    let alive = speaker.world.project().join("alive");
    fs::write(&alive, "").unwrap();
    speaker.world.watch();
    speaker.until_started();
    speaker.say("READY=1");
    speaker.world.until_phase("web", "ready");
    let pid = speaker.world.pid("web");
    fs::remove_file(&alive).unwrap();
    speaker.world.until_phase("web", "unhealthy");
    fs::write(&alive, "").unwrap();
    speaker.world.until_phase("web", "ready");
    assert_eq!(speaker.world.pid("web"), pid);
    fs::remove_file(&alive).unwrap();
    speaker.declare("", "watchdog = '500ms'\non_unhealthy = 'restart'");
    speaker.world.until("it is restarted", |world| world.pid("web").is_some_and(|now| Some(now) != pid));
    let log = support::read(&speaker.world.path("watcher.log"));
    assert!(log.contains("reason=\"unhealthy\""), "{log}");
}

#[test]
fn more_time_may_be_asked_for_before_the_start_is_too_late() {
    let more = "start_timeout = '1s'\non_unhealthy = 'report'";
    let mut speaker = Speaker::new(As::Caller, "", more);
    speaker.say("EXTEND_TIMEOUT_USEC=1000000000\nSTATUS=migrating");
    speaker.world.watch();
    speaker.until_started();
    speaker.until_status("migrating");
    let late = |world: &World| world.service_status("web").unwrap()["uptime_s"].as_u64() >= Some(2);
    speaker.world.until("it would be too late", late);
    assert_eq!(speaker.world.phase("web"), "starting");
    speaker.say("READY=1");
    speaker.world.until_phase("web", "ready");
}

#[test]
fn an_upgraded_keeper_hears_on() {
    let mut speaker = Speaker::new(As::Caller, "", "");
    let newer = |world: &World, name: &str, age: u64| {
        let file = world.path(name);
        copy_program(env!("CARGO_BIN_EXE_reconcile"), &file);
        let at = SystemTime::now() - Duration::from_secs(age);
        fs::File::open(&file).unwrap().set_modified(at).unwrap();
        file
    };
    let (one, two) = (newer(&speaker.world, "one", 3600), newer(&speaker.world, "two", 1800));
    speaker.world.install(&one);
    speaker.world.watch();
    speaker.until_started();
    speaker.say("STATUS=before");
    speaker.until_status("before");
    let (pid, keeper) = (speaker.world.pid("web"), speaker.world.keeper().unwrap());
    speaker.world.kill_watcher();
    speaker.world.install(&two);
    speaker.world.watch();
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino()).unwrap_or_default();
    let exe = format!("/proc/{keeper}/exe");
    speaker.world.until("the keeper is upgraded", |_| inode(Path::new(&exe)) == inode(&two));
    speaker.until_status("before");
    speaker.say("READY=1\nSTATUS=after");
    speaker.world.until_phase("web", "ready");
    speaker.until_status("after");
    assert_eq!((speaker.world.pid("web"), speaker.world.keeper()), (pid, Some(keeper)));
}

/// By cgroup and by holder; the descriptor is there under its number, whatever else the keeper has open.
#[test]
fn a_newline_on_its_descriptor_makes_a_service_ready() {
    for (who, fd) in [(As::Caller, 3), (As::Holders, 3), (As::Caller, 7)] {
        let mut world = World::run_as(who);
        world.config("[policy]\nexecutables = ['sh', 'sleep']\nallow_shell = true\n");
        let script = format!("until [ -e go ]; do sleep 0.02; done; echo >&{fd}; exec sleep 1000");
        world.service("web", &script, &format!("health = {{ notify_fd = {fd} }}"));
        world.watch();
        world.until("it is started", |world| world.pid("web").is_some());
        let pid = world.pid("web");
        assert_eq!(world.phase("web"), "starting");
        world.kill_watcher();
        fs::write(world.project().join("go"), "").unwrap();
        world.once().expect_code(0);
        assert_eq!((world.phase("web").as_str(), world.pid("web")), ("ready", pid));
    }
}
