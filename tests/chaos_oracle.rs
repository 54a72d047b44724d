//! The chaos oracle itself: it finds each kind of wrong, planted by hand among real processes without a reconciler.

#![allow(dead_code, reason = "the soak uses the rest of these")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

#[path = "../examples/chaos/model.rs"]
mod model;
#[path = "../examples/chaos/oracle.rs"]
mod oracle;
#[path = "../examples/chaos/register.rs"]
mod register;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use model::{BEHAVIOURS, Behaviour, Declared, Manifest, Model};
use register::Register;

const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    dir: tempfile::TempDir,
    model: Model,
    workers: Vec<Child>,
}

fn behaviour(name: &str) -> Behaviour {
    BEHAVIOURS.into_iter().find(|it| it.name == name).expect("a behaviour of the worker")
}

impl Stage {
    fn new() -> Self {
        // A worker's orphans come to us, and are ended with the stage.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), model: Model::default(), workers: Vec::new() }
    }

    fn declare(&mut self, name: &str) -> Declared {
        let service = self.model.invent(behaviour(name));
        let manifest = Manifest { services: vec![service.clone()], ..Manifest::default() };
        self.model.manifests.insert(service.name.clone(), manifest);
        service
    }

    /// What a reconciler would do, or would do wrong; returns once the worker and `children` of it are on record.
    fn start(&mut self, service: &Declared, children: usize) {
        let before = self.births(service);
        let worker = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/chaos/worker.pl");
        let child = Command::new("perl")
            .arg(worker)
            .arg(self.dir.path())
            .args([&service.name, &service.generation.to_string(), service.behaviour.name])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.workers.push(child);
        let deadline = Instant::now() + PATIENCE;
        while self.births(service) < before + 1 + children {
            assert!(Instant::now() < deadline, "it is not born");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self, at: usize) {
        self.workers[at].kill().unwrap();
        self.workers[at].wait().unwrap();
    }

    fn births(&self, service: &Declared) -> usize {
        self.lives().get(&service.name).map_or(0, |life| life.births.len())
    }

    fn lives(&self) -> std::collections::BTreeMap<String, register::Life> {
        Register::new(self.dir.path()).read()
    }

    fn amiss(&self) -> Vec<String> {
        oracle::amiss_now(&self.model, &self.lives())
    }

    fn wrong(&self) -> Vec<String> {
        oracle::wrong_for_ever(&self.model, &self.lives())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for birth in self.lives().values().flat_map(register::Life::alive) {
            let pid = nix::unistd::Pid::from_raw(birth.process.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
        }
        for worker in &mut self.workers {
            let _ = worker.wait();
        }
    }
}

#[track_caller]
fn assert_only(found: &[String], text: &str) {
    assert!(found.len() == 1 && found[0].contains(text), "not just `{text}`: {found:#?}");
}

#[test]
fn a_world_as_declared_is_well() {
    let mut stage = Stage::new();
    let (steady, forking) = (stage.declare("steady"), stage.declare("forking"));
    stage.start(&steady, 0);
    stage.start(&forking, 3);
    assert_eq!((stage.amiss(), stage.wrong()), (vec![], vec![]));
}

#[test]
fn a_service_that_does_not_run_is_found() {
    let mut stage = Stage::new();
    stage.declare("steady");
    assert_only(&stage.amiss(), "0 leaders live");
}

#[test]
fn a_second_leader_is_found_for_ever() {
    let mut stage = Stage::new();
    let service = stage.declare("steady");
    stage.start(&service, 0);
    stage.start(&service, 0);
    assert_only(&stage.amiss(), "2 leaders live");
    stage.model.excuse(&service);
    stage.end(0);
    assert_eq!(stage.amiss(), [] as [&str; 0]);
    assert_only(&stage.wrong(), "a leader beside others");
}

#[test]
fn a_start_without_a_reason_is_found() {
    let mut stage = Stage::new();
    let service = stage.declare("steady");
    stage.start(&service, 0);
    stage.end(0);
    stage.start(&service, 0);
    assert_only(&stage.wrong(), "started 2 times, with reasons for 1");
    stage.model.excuse(&service);
    assert_eq!(stage.wrong(), [] as [&str; 0]);
}

#[test]
fn descendants_of_an_ended_run_are_found() {
    let mut stage = Stage::new();
    let service = stage.declare("forking");
    stage.start(&service, 3);
    stage.end(0);
    stage.model.manifests.clear();
    assert_only(&stage.amiss(), "it is not declared, and these live");
    stage
        .model
        .manifests
        .insert("a".into(), Manifest { services: vec![service.clone()], ..Manifest::default() });
    stage.start(&service, 3);
    assert_only(&stage.amiss(), "descendants of an ended run live");
}

#[test]
fn a_generation_that_is_not_declared_is_found() {
    let mut stage = Stage::new();
    let service = stage.declare("steady");
    stage.start(&service, 0);
    let generation = stage.model.next_generation();
    let edited = Declared { generation, ..service };
    stage
        .model
        .manifests
        .insert(edited.name.clone(), Manifest { services: vec![edited], ..Manifest::default() });
    assert_only(&stage.amiss(), "generation 1 lives");
}

#[test]
fn an_invented_exit_status_is_found() {
    let mut stage = Stage::new();
    let service = stage.declare("clean");
    stage.start(&service, 0);
    let status = |end: serde_json::Value| {
        let name = &service.name;
        let status = serde_json::json!({ "services": [{ "name": name, "last_exit": end }] });
        oracle::invented_exits(&status, &stage.lives())
    };
    assert_only(&status(serde_json::json!({ "code": 7, "signal": null })), "an end that nobody made");
    assert_only(&status(serde_json::json!({ "code": null, "signal": 11 })), "an end that nobody made");
    assert_eq!(status(serde_json::json!({ "code": null, "signal": null })), [] as [&str; 0]);
    assert_eq!(status(serde_json::json!({ "code": null, "signal": 9 })), [] as [&str; 0]);
}
