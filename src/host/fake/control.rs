//! What a test does to the machine, and what it asks of it.
//!
//! Services are named as on the command line, `web` or `project/web`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use super::behaviour::{Behaviour, Health, JobScript};
use super::run::{Birth, Body, Doubt, Run};
use super::world::{Counts, Occurrence, StatusWithoutKeeper};
use super::{FakeHost, Op};
use crate::host::{CgroupLimits, UserFacts};
use crate::identity::{Pid, ProcessIdentity, ServiceId};
use crate::state::{ExitStatus, Ledger, Record};

/// Services with how many processes each has.
pub type Population = Vec<(String, usize)>;

fn service(name: &str) -> ServiceId {
    ServiceId::parse(name).unwrap_or_else(|error| panic!("`{name}` names a service: {error}"))
}

/// Time.
impl FakeHost {
    /// Lets time pass with nobody waiting; what happens in it is queued.
    pub fn advance(&self, span: Duration) {
        self.world.borrow_mut().advance(span);
    }

    /// Wakes a reconciler that waits, at that time at the latest, with news that changes nothing: so that a
    /// test is in charge again.
    pub fn wake_after(&self, span: Duration) {
        self.world.borrow_mut().schedule(span, Occurrence::StaleNews);
    }

    /// Only the clocks that count suspend move, and nothing happens.
    pub fn suspend(&self, span: Duration) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("the machine is suspended for {span:?}"));
        world.clock.suspend(span);
    }

    pub fn step_wall(&self, by_ms: i64) {
        let mut world = self.world.borrow_mut();
        world.tell(format_args!("the wall clock is stepped by {by_ms} ms"));
        world.clock.step_wall(by_ms);
    }

    /// Everything but files and ledger is gone; `off` passes on the wall clock. The handle of the next
    /// reconciler.
    pub fn reboot(&self, off: Duration) -> Self {
        self.world.borrow_mut().reboot(off);
        self.next_session()
    }
}

/// Services.
impl FakeHost {
    /// What the service does from its next start on.
    pub fn behave(&self, name: &str, behaviour: Behaviour) {
        self.behave_in_turn(name, [behaviour]);
    }

    /// One behaviour a start; the last one for all further ones.
    pub fn behave_in_turn(&self, name: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let behaviours: VecDeque<Behaviour> = behaviours.into_iter().collect();
        self.world.borrow_mut().scripts.insert(service(name), behaviours);
    }

    /// What probes of the service get from now on, whatever its behaviour says.
    pub fn probes_say(&self, name: &str, result: Result<(), String>) {
        self.world.borrow_mut().health.insert(service(name), Health::Says(result));
    }

    /// The leader ends now, by no doing of ours.
    /// From now on the machine can enforce limits.
    pub fn enforce_limits(&self) {
        self.world.borrow_mut().limits_hold = true;
    }

    /// Those that hold for the newest run of which any were put.
    pub fn limits_of(&self, name: &str) -> Option<CgroupLimits> {
        let world = self.world.borrow();
        let runs = world
            .limits
            .iter()
            .filter(|(nonce, _)| world.runs.get(nonce).is_some_and(|run| run.service == service(name)));
        runs.map(|(_, limits)| limits.clone()).next_back()
    }

    /// What its reload command does from now on.
    pub fn reload_command_does(&self, name: &str, script: JobScript) {
        self.world.borrow_mut().reload_commands.insert(service(name), script);
    }

    /// What the commands of its secrets do from now on.
    pub fn secret_commands_do(&self, name: &str, script: JobScript) {
        self.world.borrow_mut().secret_commands.insert(service(name), script);
    }

    pub fn end(&self, name: &str, status: ExitStatus) {
        let mut world = self.world.borrow_mut();
        let id = service(name);
        let lives = |run: &Run| run.service == id && run.body().is_some_and(Body::leader_lives);
        let nonce = world.runs.iter().find(|(_, run)| lives(run)).map(|(nonce, _)| nonce.clone());
        world.leader_ends(&nonce.unwrap_or_else(|| panic!("{name} runs")), status);
    }

    /// From now on its process cannot be told from a stranger, or cannot be reached.
    pub fn make_unverifiable(&self, name: &str, doubt: Doubt) {
        self.world.borrow_mut().doubts.insert(service(name), doubt);
    }

    pub fn make_verifiable(&self, name: &str) {
        self.world.borrow_mut().doubts.remove(&service(name));
    }

    pub fn add_user(&self, user: UserFacts) {
        self.world.borrow_mut().users.insert(user.name.clone(), user);
    }

    /// The same machine seen from a terminal with this variable.
    #[must_use]
    pub fn with_variable(mut self, key: &str, value: &str) -> Self {
        Rc::make_mut(&mut self.environment).insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn add_git_worktree(&self, path: impl Into<PathBuf>) {
        self.world.borrow_mut().git_worktrees.insert(path.into());
    }

    pub fn remove_git_worktree(&self, path: impl AsRef<Path>) {
        self.world.borrow_mut().git_worktrees.remove(path.as_ref());
    }

    /// A directory that services are started in is not there, or is there again.
    pub fn lose_directory(&self, path: impl Into<PathBuf>, is_lost: bool) {
        let (path, lost) = (path.into(), &mut self.world.borrow_mut().lost_directories);
        if is_lost {
            lost.insert(path)
        } else {
            lost.remove(&path)
        };
    }

    /// Services get a cgroup each, instead of a holder.
    pub fn use_cgroups(&self) {
        self.world.borrow_mut().cgroups = true;
    }

    /// The next process to be born gets this pid.
    pub fn reuse_pid(&self, pid: Pid) {
        self.world.borrow_mut().pids.order(pid);
    }

    /// Leaves only so many pids, so that they come around soon.
    pub fn narrow_pids(&self, count: i32) {
        self.world.borrow_mut().pids.narrow(count);
    }

    /// A process of somebody else; to signal it ends the test.
    pub fn add_stranger(&self, pid: Pid) -> ProcessIdentity {
        let mut world = self.world.borrow_mut();
        let ticks = world.clock.ticks();
        let start_ticks = world.pids.take_this(pid, ticks);
        let stranger =
            ProcessIdentity { pid, start_ticks, boot: world.clock.boot(), pid_ns: super::PID_NAMESPACE };
        world.strangers.insert(pid, stranger.clone());
        world.tell(format_args!("a stranger has pid {pid}"));
        stranger
    }
}

/// Faults.
impl FakeHost {
    /// The next such call fails; several orders are served in turn.
    pub fn fail_next(&self, op: Op, errno: Errno) {
        self.world.borrow_mut().faults.add(op, errno);
    }

    /// Every such call fails until [`FakeHost::heal`].
    pub fn fail_always(&self, op: Op, errno: Errno) {
        self.world.borrow_mut().faults.last(op, errno);
    }

    pub fn heal(&self, op: Op) {
        self.world.borrow_mut().faults.heal(op);
    }

    /// The newest records of the ledger are lost.
    pub fn lose_ledger_tail(&self, records: usize) {
        self.world.borrow_mut().journal.lose_tail(records);
    }

    /// The accepted texts are lost.
    pub fn lose_texts(&self) {
        self.world.borrow_mut().journal.lose_texts();
    }

    /// A ledger of before.
    pub fn preload(&self, records: &[Record]) {
        self.world.borrow_mut().journal.append(records);
    }

    /// A new keeper takes its place with the next spawn; how what lives now will end is seen by nobody.
    /// What is in flight was born or never will be.
    pub fn kill_keeper(&self, in_flight: Birth) {
        self.world.borrow_mut().lose_keeper(in_flight);
    }

    /// How services end is known without their keeper too, as on kernels that tell it by pidfd.
    pub fn know_exits_without_keeper(&self) {
        self.world.borrow_mut().status_without_keeper = StatusWithoutKeeper::Known;
    }

    /// SIGKILL to the reconciler; the handle of the next one on the same machine.
    pub fn reconciler_dies(&self, in_flight: Birth) -> Self {
        let mut world = self.world.borrow_mut();
        world.tell("the reconciler is gone");
        world.begin_session();
        world.settle_births(in_flight);
        drop(world);
        self.next_session()
    }

    fn next_session(&self) -> Self {
        let session = self.world.borrow().session.number;
        Self { session, ..self.clone() }
    }

    /// The reconciler is killed when it has made so many calls that change or learn something, and is about to
    /// make one more; run it in [`FakeHost::until_killed`].
    pub fn die_after(&self, calls: u64) {
        self.world.borrow_mut().session.most_calls = Some(calls);
    }

    /// Such calls of the reconciler in charge so far.
    pub fn calls(&self) -> u64 {
        self.world.borrow().session.calls
    }
}

/// Questions.
impl FakeHost {
    pub fn counts(&self) -> Counts {
        self.world.borrow().counts
    }

    /// All that happened, a line each.
    pub fn story(&self) -> String {
        self.world.borrow().story()
    }

    /// The ledger as a reconciler that starts now reads it.
    pub fn ledger(&self) -> Ledger {
        self.world.borrow().journal.fold()
    }

    pub fn records(&self) -> Vec<Record> {
        self.world.borrow().journal.records().to_vec()
    }

    pub fn logs_are_purged(&self, name: &str) -> bool {
        self.world.borrow().purged_logs.contains(&service(name))
    }

    /// The live leader of a service.
    pub fn leader(&self, name: &str) -> Option<Pid> {
        let world = self.world.borrow();
        let id = service(name);
        let bodies = world.runs.values().filter(|run| run.service == id).filter_map(Run::body);
        let mut alive = bodies.filter(|body| body.leader_lives());
        alive.next().map(|body| body.identity.pid)
    }

    /// How many processes each service has, leaders and descendants alike; those with none are left out.
    pub fn population(&self) -> Population {
        let world = self.world.borrow();
        let mut counts = BTreeMap::<&ServiceId, usize>::new();
        for run in world.runs.values() {
            *counts.entry(&run.service).or_default() += run.body().map_or(0, |body| body.pids().len());
        }
        counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(id, count)| (id.to_string(), count))
            .collect()
    }

    /// Exactly these services live, each with one process and a leader; everything else is an orphan.
    #[track_caller]
    pub fn assert_alive(&self, names: &[&str]) {
        let mut expected: Population = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        expected.sort();
        let mut found = self.population();
        found.sort();
        assert_eq!(found, expected, "what lives\n{}", self.story());
        for name in names {
            assert!(self.leader(name).is_some(), "{name} lives without its leader\n{}", self.story());
        }
    }
}
