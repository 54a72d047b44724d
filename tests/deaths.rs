//! Death at every step: a process is stopped at each failpoint, it or others are killed there, and the world must come
//! out as declared all the same.
//!
//! One story is told each time: services start, one is edited, one removed, one restarted, one added, everything is shut
//! down and comes back. Wherever it is interrupted, the rest is told by an unarmed reconciler, and the chaos
//! oracle judges: each service once, no descendant of a removed one, no start without a reason, no exit invented.

#![allow(dead_code, reason = "the soak uses the rest of these")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

#[path = "../examples/chaos/model.rs"]
mod model;
#[path = "../examples/chaos/oracle.rs"]
mod oracle;
#[path = "../examples/chaos/register.rs"]
mod register;
#[path = "../examples/chaos/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::{BEHAVIOURS, Declared, Ends, Manifest, Model, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reconcile::host::failpoint;
use register::{Process, ticks_of};
use world::{Setting, World, descendants, reap, signal};

/// Bound of every wait; met only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who dies when a process has stopped at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    /// The one that stopped.
    Itself,
    /// The reconciler and the keeper; the one that stopped goes on, if it is neither.
    Both,
    /// All three.
    All,
}

struct Story {
    world: World,
    model: Model,
    point: &'static str,
    file: PathBuf,
    turn: usize,
    victims: Victims,
    /// It was interrupted; nobody is armed any more.
    is_over: bool,
}

impl Story {
    fn new(point: &'static str, turn: usize, victims: Victims, setting: Setting) -> Self {
        let mut world = World::new(Path::new(env!("CARGO_BIN_EXE_reconcile")), setting);
        let config = "[policy]\nexecutables = [\"perl\", \"sleep\"]\n[prune]\ndelay = \"100ms\"\n";
        std::fs::write(world.path("reconcile.toml"), config).unwrap();
        let file = world.path("register").join("../home/failpoint");
        world.failpoint = Some(format!("{point}@{turn}={}", file.display()));
        Self { world, model: Model::default(), point, file, turn, victims, is_over: false }
    }

    fn put(&mut self, services: Vec<Declared>) {
        let path = format!("{}.toml", services[0].name);
        let temporary = self.world.root().join(".new");
        std::fs::write(&temporary, text(&services, &self.world.places())).unwrap();
        std::fs::rename(temporary, self.world.root().join(&path)).unwrap();
        self.model.manifests.insert(path, Manifest { services, ..Manifest::default() });
    }

    fn declare(&mut self, behaviour: &str) -> Declared {
        let behaviour = BEHAVIOURS.into_iter().find(|it| it.name == behaviour).expect("a behaviour");
        let service = self.model.invent(behaviour);
        self.put(vec![service.clone()]);
        service
    }

    fn edit(&mut self, service: &Declared) {
        let generation = self.model.next_generation();
        self.put(vec![Declared { generation, ..service.clone() }]);
    }

    fn remove(&mut self, service: &Declared) {
        let path = format!("{}.toml", service.name);
        std::fs::remove_file(self.world.root().join(&path)).unwrap();
        self.model.manifests.remove(&path);
    }

    /// Everything is started anew once it was shut down.
    fn excuse_all(&mut self) {
        for service in self.model.declared().cloned().collect::<Vec<_>>() {
            self.model.excuse(&service);
        }
    }

    fn tell(mut self) {
        let steady = self.declare("steady");
        let forking = self.declare("forking");
        let stubborn = self.declare("stubborn");
        self.declare("dying");
        self.converge("all of them start");
        self.edit(&steady);
        self.converge("one is edited");
        self.remove(&forking);
        self.converge("one is removed");
        self.model.excuse(&stubborn);
        self.world.begin_command(&["restart", &stubborn.name]);
        self.declare("clean");
        self.converge("one is restarted, one added");
        self.excuse_all();
        self.shut_down();
        self.converge("everything comes back");
        assert!(self.is_over, "{}: {} of {} came by", self.point, self.visits(), self.turn);
    }

    /// As by Ctrl-C, until nothing is left of either process, or somebody stops.
    fn shut_down(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.world.status().is_none_or(|status| status["watching"] != true) {
            self.interrupt_if_stopped();
            self.world.reconcile(&["up", "--quiet"]);
            assert!(Instant::now() < deadline, "{}", self.describe("somebody watches"));
        }
        if let Some(reconciler) = self.world.reconciler_process() {
            signal(reconciler, Signal::SIGTERM);
        }
        // A keeper whose orphans nobody may touch stays with them.
        let may_stay = self.has_lost_a_hold();
        while self.world.has_reconciler() || (!may_stay && self.world.keeper_process().is_some()) {
            if self.interrupt_if_stopped() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", self.describe("it ends"));
            reap();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Until the world is as declared, whoever dies meanwhile.
    fn converge(&mut self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut well: Vec<String> = Vec::new();
        loop {
            self.interrupt_if_stopped();
            self.world.reconcile(&["up", "--quiet"]);
            reap();
            let lives = self.world.register().read();
            let wrong = oracle::wrong_for_ever(&self.model, &lives);
            assert!(wrong.is_empty(), "{wrong:#?}\n{}", self.describe(what));
            let mut amiss = oracle::amiss_now(&self.model, &lives);
            let is_amiss = |name: &str| amiss.iter().any(|line| line.starts_with(&format!("{name}: ")));
            let restless = self.model.declared().filter(|service| service.behaviour.ends == Ends::Unclean);
            well.extend(restless.filter(|it| !is_amiss(&it.name)).map(|it| it.name.clone()));
            amiss.retain(|line| {
                !line.split_once(": ").is_some_and(|(name, _)| well.contains(&name.to_owned()))
            });
            if amiss.is_empty() && self.claims_nothing_wrong() {
                return;
            }
            self.lead_out_of_held();
            assert!(Instant::now() < deadline, "{amiss:#?}\n{}", self.describe(what));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn has_lost_a_hold(&self) -> bool {
        self.is_over && self.point.starts_with("holder") && self.victims != Victims::Both
    }

    /// With a holder its hold is lost, and what it held may not be touched: the way out is the operator's.
    fn lead_out_of_held(&mut self) {
        if !self.has_lost_a_hold() {
            return;
        }
        let Some(status) = self.world.status() else { return };
        let services = status["services"].as_array().cloned().unwrap_or_default();
        for service in services.iter().filter(|service| service["reason"] == "containment-lost") {
            let name = service["name"].as_str().expect("a name");
            self.end_workers(name);
            let declared: Vec<Declared> =
                self.model.declared().filter(|it| it.name == name).cloned().collect();
            declared.iter().for_each(|service| self.model.excuse(service));
            reap();
            self.world.run(&["forget", name]);
        }
    }

    /// Also one that was forked a moment ago and is not in the register yet.
    fn end_workers(&self, name: &str) {
        let worker = self.world.places().worker;
        let is_one = |pid: &i32| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let has = |wanted: &str| cmdline.split(|&byte| byte == 0).any(|word| word == wanted.as_bytes());
            has(&worker) && has(name)
        };
        // Who dies may have forked a moment before: until nobody is found.
        loop {
            let living: Vec<i32> = descendants().into_iter().filter(is_one).collect();
            if living.is_empty() {
                return;
            }
            for pid in living {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            reap();
        }
    }

    /// True if `status` answers, and its answer is true. One that asks somebody who has stopped waits for us.
    fn claims_nothing_wrong(&self) -> bool {
        if self.stopped().is_some() {
            return false;
        }
        let Some(status) = self.world.status() else { return false };
        let lives = self.world.register().read();
        oracle::invented_exits(&status, &lives).is_empty() && oracle::held(&self.model, &status).is_empty()
    }

    fn visits(&self) -> usize {
        std::fs::read(&self.file).map_or(0, |lines| lines.len() / 8)
    }

    /// Who came by as the one that stops, once it has.
    fn stopped(&self) -> Option<Process> {
        if self.is_over {
            return None;
        }
        let lines = std::fs::read(&self.file).ok()?;
        let line = lines.chunks(8).nth(self.turn - 1)?;
        let pid: i32 = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
        let process = Process { pid, ticks: ticks_of(pid)? };
        let deadline = Instant::now() + PATIENCE;
        while !is_stopped(pid) {
            assert!(Instant::now() < deadline, "{pid} came by and did not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(process)
    }

    /// True if this is the moment.
    fn interrupt_if_stopped(&mut self) -> bool {
        let Some(stopped) = self.stopped() else { return false };
        self.is_over = true;
        self.world.failpoint = None;
        let (reconciler, keeper) = (self.world.reconciler_process(), self.world.keeper_process());
        let others = [reconciler, keeper].into_iter().flatten();
        let victims: Vec<Process> = match self.victims {
            Victims::Itself => vec![stopped],
            Victims::Both => others.collect(),
            Victims::All => others.chain([stopped]).collect(),
        };
        for victim in victims {
            signal(victim, Signal::SIGKILL);
        }
        signal(stopped, Signal::SIGCONT);
        true
    }

    fn describe(&self, what: &str) -> String {
        let Self { point, turn, victims, .. } = self;
        format!("{point}@{turn}, {victims:?}: not so: {what}\n{}", self.world.describe())
    }
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// Each story is told by a process of its own, so that several can be told at a time.
const STORY: &str = "RECONCILE_TEST_STORY";
const AT_A_TIME: usize = 4;

/// `point victims holders`, of all that differ.
fn stories() -> Vec<String> {
    let mut stories = Vec::new();
    for point in failpoint::ALL {
        let stops_one_of_both = !point.starts_with("child") && !point.starts_with("holder");
        let victims = if stops_one_of_both { &["itself", "both"][..] } else { &["itself", "both", "all"] };
        let settings = match point {
            "keeper.gone" => &["default"][..],
            _ if point.starts_with("holder") => &["holders"],
            _ => &["default", "holders"],
        };
        for victims in victims {
            stories.extend(settings.iter().map(|setting| format!("{point} {victims} {setting}")));
        }
    }
    stories
}

/// One that another process of this test asks for.
#[test]
fn one_story() {
    let Ok(story) = std::env::var(STORY) else { return };
    let words: Vec<&str> = story.split(' ').collect();
    let point = failpoint::ALL.into_iter().find(|point| *point == words[0]).expect("a failpoint");
    let victims = match words[1] {
        "itself" => Victims::Itself,
        "both" => Victims::Both,
        _ => Victims::All,
    };
    Story::new(point, 1, victims, Setting { holders: words[2] == "holders", uid: None }).tell();
}

#[test]
fn death_at_every_step_loses_nothing_and_doubles_nothing() {
    let only = std::env::var("FAILPOINT").unwrap_or_default();
    let stories: Vec<String> = stories().into_iter().filter(|story| story.starts_with(&only)).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(story) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let output = std::process::Command::new(std::env::current_exe().unwrap())
                        .args(["one_story", "--exact", "--nocapture"])
                        .env(STORY, story)
                        .output()
                        .unwrap();
                    if !output.status.success() {
                        let text = String::from_utf8_lossy(&output.stderr).into_owned();
                        failed.lock().unwrap().push(format!("{story}\n{text}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} stories: {}", failed.len(), stories.len(), failed.join("\n"));
}
