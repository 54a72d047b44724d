//! Does things to the world, one after the other and at bad moments, and keeps the model in step.
//!
//! Every choice comes from the seed; how far reconcile is at that moment does not, so the same seed gives the
//! same acts and another interleaving.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::model::{BEHAVIOURS, Declared, Manifest, Model, text};
use crate::register::Process;
use crate::tree::{PREFIX, Tree};
use crate::world::{World, reap, signal};

/// Services outside of the tree, at least and at most.
const FEWEST: usize = 6;
const MOST: usize = 16;

/// Removals between two looks: fewer than the guard against mass removal minds.
const MOST_REMOVALS: u32 = 2;

/// What was done, for the report.
#[derive(Debug, Default)]
pub struct Tally {
    pub edits: u32,
    pub reconcilers_killed: u32,
    pub keepers_killed: u32,
    pub workers_killed: u32,
    pub frozen: u32,
    pub rivals: u32,
}

#[derive(Debug)]
pub struct Driver {
    pub world: World,
    pub model: Model,
    pub tally: Tally,
    /// What a rival did that it may not.
    pub wrong: Vec<String>,
    random: fastrand::Rng,
    tree: Option<Tree>,
    frozen: Vec<(Instant, Process)>,
    removals: u32,
    /// A service was taken out of its manifest since the last look.
    something_is_gone: bool,
}

impl Driver {
    pub fn new(world: World, seed: u64) -> Self {
        let mut model = Model::default();
        let tree = Tree::plant(&world, &mut model);
        let mut driver = Self {
            world,
            model,
            tally: Tally::default(),
            wrong: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            tree,
            frozen: Vec::new(),
            removals: 0,
            something_is_gone: false,
        };
        // One of each, so that every run has met them all.
        for behaviour in BEHAVIOURS {
            let service = driver.model.invent(behaviour);
            let path = format!("{}.toml", service.name);
            driver.put(&path, vec![service]);
        }
        driver
    }

    /// One act, often with a disturbance just after it.
    pub fn act(&mut self) {
        self.thaw_those_due();
        if self.random.u32(..3) != 0 {
            let way = self.way_to_reconcile();
            self.world.reconcile(way);
        }
        match self.random.u32(..20) {
            0..=2 => self.create(),
            3..=5 => self.edit(),
            6 => self.remark(),
            7 => self.rename(),
            8 => self.move_one(),
            9 | 10 => self.remove(),
            11 => self.spoil(),
            12 => self.mend(),
            13 => self.write_slowly(),
            14 | 15 => self.swap_branches(),
            16 => self.kill_worker(),
            17 => self.restart_one(),
            18 => self.send_rival(),
            _ => self.shut_down(),
        }
        if self.random.bool() {
            self.pause(60);
            self.disturb();
        }
        self.pause(300);
        reap();
    }

    fn way_to_reconcile(&mut self) -> &'static [&'static str] {
        if self.random.u32(..4) == 0 { &["--once", "--timeout", "3s"] } else { &["up", "--quiet"] }
    }

    fn disturb(&mut self) {
        match self.random.u32(..10) {
            0..=3 => self.kill_reconciler(),
            4 | 5 => self.kill_keeper(),
            6 => {
                self.kill_keeper();
                self.kill_reconciler();
            }
            7 => {
                self.kill_reconciler();
                self.kill_keeper();
            }
            8 => {
                let reconciler = self.world.reconciler_process();
                self.freeze(reconciler);
            }
            _ => {
                let keeper = self.world.keeper_process();
                self.freeze(keeper);
            }
        }
    }

    fn pause(&mut self, at_most_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.random.u64(..at_most_ms)));
    }

    /// Writes a manifest as an editor should.
    fn put(&mut self, path: &str, services: Vec<Declared>) {
        self.write(path, &text(&services, &self.world.places()));
        self.model.manifests.insert(path.to_owned(), Manifest { services, ..Manifest::default() });
    }

    fn write(&mut self, path: &str, content: &str) {
        let temporary = self.world.root().join(".new");
        std::fs::write(&temporary, content).expect("our own directory can be written");
        std::fs::rename(temporary, self.world.root().join(path)).expect("our own directory can be written");
        self.tally.edits += 1;
    }

    /// A manifest outside of the tree that stands there in good order.
    fn any_sound(&mut self) -> Option<String> {
        let mut sound = self.model.sound();
        sound.retain(|path| !path.starts_with(PREFIX));
        let chosen = self.random.usize(..sound.len().max(1));
        (!sound.is_empty()).then(|| sound.swap_remove(chosen))
    }

    fn count(&self) -> usize {
        let outside = self.model.manifests.iter().filter(|(path, _)| !path.starts_with(PREFIX));
        outside.map(|(_, manifest)| manifest.services.len()).sum()
    }

    fn create(&mut self) {
        if self.count() >= MOST {
            return;
        }
        let behaviour = BEHAVIOURS[self.random.usize(..BEHAVIOURS.len())];
        let service = self.model.invent(behaviour);
        let path = format!("{}.toml", service.name);
        self.put(&path, vec![service]);
    }

    /// A change of class restart to each service of a manifest.
    fn edit(&mut self) {
        let Some(path) = self.any_sound() else { return };
        let mut services = self.model.manifests[&path].services.clone();
        for service in &mut services {
            service.generation = self.model.next_generation();
        }
        self.put(&path, services);
    }

    /// Changes that touch no process.
    fn remark(&mut self) {
        let Some(path) = self.any_sound() else { return };
        let mut services = self.model.manifests[&path].services.clone();
        services.iter_mut().for_each(|service| service.remark += 1);
        self.put(&path, services);
    }

    fn rename(&mut self) {
        let Some(path) = self.any_sound() else { return };
        let renamed = format!("renamed-{path}");
        if renamed.len() > 100 {
            return;
        }
        let root = self.world.root();
        std::fs::rename(root.join(&path), root.join(&renamed)).expect("our own directory can be written");
        if let Some(manifest) = self.model.manifests.remove(&path) {
            self.model.manifests.insert(renamed, manifest);
        }
        self.tally.edits += 1;
    }

    /// A service goes from its manifest to another one, which names it first.
    fn move_one(&mut self) {
        let (Some(from), Some(to)) = (self.any_sound(), self.any_sound()) else { return };
        if from == to {
            return;
        }
        let mut left = self.model.manifests[&from].services.clone();
        let Some(moved) = left.pop() else { return };
        let more = [&self.model.manifests[&to].services[..], &[moved]].concat();
        self.put(&to, more);
        self.pause(100);
        if left.is_empty() {
            self.delete(&from);
        } else {
            self.put(&from, left);
        }
    }

    fn remove(&mut self) {
        let Some(path) = self.any_sound() else { return };
        let count = self.model.manifests[&path].services.len();
        let allowed = self.removals + (count as u32) <= MOST_REMOVALS;
        if allowed && self.count() - count >= FEWEST {
            self.removals += count as u32;
            self.delete(&path);
        }
    }

    fn delete(&mut self, path: &str) {
        std::fs::remove_file(self.world.root().join(path)).expect("our own directory can be written");
        self.something_is_gone = true;
        self.model.manifests.remove(path);
        self.tally.edits += 1;
    }

    /// Breaks a manifest, or makes one that the policy refuses: what it last said stays in force.
    fn spoil(&mut self) {
        let Some(path) = self.any_sound() else { return };
        if !self.model.manifests[&path].is_settled {
            return;
        }
        let mut edited = self.model.manifests[&path].services.clone();
        for service in &mut edited {
            service.generation = self.model.next_generation();
        }
        let good = text(&edited, &self.world.places());
        let bad = match self.random.u32(..4) {
            0 => format!("{good}[service.\n"),
            1 => format!("{good}\n[service.intruder]\ncommand = [\"dd\"]\n"),
            2 => String::new(),
            _ => good[..good.len() / 2].to_owned() + "\u{0}\u{fffd}",
        };
        self.write(&path, &bad);
        if let Some(manifest) = self.model.manifests.get_mut(&path) {
            manifest.is_bad = true;
        }
    }

    fn mend(&mut self) {
        let bad = self.model.manifests.iter().filter(|(_, manifest)| manifest.is_bad);
        let bad: Vec<(String, Vec<Declared>)> =
            bad.map(|(path, manifest)| (path.clone(), manifest.services.clone())).collect();
        for (path, services) in bad {
            self.put(&path, services);
        }
    }

    /// In place, and not all at once: no half of it is a manifest.
    fn write_slowly(&mut self) {
        let Some(path) = self.any_sound() else { return };
        let mut services = self.model.manifests[&path].services.clone();
        for service in &mut services {
            service.generation = self.model.next_generation();
        }
        let whole = text(&services, &self.world.places());
        let half = whole.rfind("perl").expect("every service has its command");
        let file = self.world.root().join(&path);
        std::fs::write(&file, &whole[..half]).expect("our own directory can be written");
        self.pause(100);
        self.disturb();
        std::fs::write(&file, &whole).expect("our own directory can be written");
        self.tally.edits += 1;
        let manifest = Manifest { services, ..Manifest::default() };
        self.model.manifests.insert(path, manifest);
    }

    fn swap_branches(&mut self) {
        if let Some(mut tree) = self.tree.take() {
            tree.swap(&mut self.model);
            self.something_is_gone = true;
            self.tally.edits += 1;
            self.tree = Some(tree);
        }
    }

    /// A crash that is none of the worker's own.
    fn kill_worker(&mut self) {
        let lives = self.world.register().read();
        let declared: Vec<Declared> = self.model.declared().cloned().collect();
        let victim = &declared[self.random.usize(..declared.len())];
        let Some(life) = lives.get(&victim.name) else { return };
        for leader in life.live_leaders().iter().filter(|it| it.generation == victim.generation) {
            self.model.excuse(victim);
            signal(leader.process, Signal::SIGKILL);
            self.tally.workers_killed += 1;
        }
    }

    fn restart_one(&mut self) {
        let declared: Vec<Declared> = self.model.declared().cloned().collect();
        let chosen = &declared[self.random.usize(..declared.len())];
        self.model.excuse(chosen);
        self.world.begin_command(&["restart", &chosen.name]);
    }

    /// A second reconciler has to see that there is one, say so and leave.
    fn send_rival(&mut self) {
        if !self.world.has_reconciler() || !self.frozen.is_empty() {
            return;
        }
        self.tally.rivals += 1;
        match self.world.run(&["up", "--quiet"]) {
            Some((6, _)) => {}
            // The first may have been a `--once` that was done, or may have ended by itself.
            Some(_) | None if !self.world.has_reconciler() => {}
            Some((code, _)) => self.wrong.push(format!("a second reconciler ended with {code}, not with 6")),
            // It is in charge of what the first gave up meanwhile, and was ended by our impatience.
            None => {}
        }
    }

    /// As by Ctrl-C: everything is stopped, and comes back with the next one.
    fn shut_down(&mut self) {
        let Some(reconciler) = self.world.reconciler_process() else { return };
        for service in self.model.declared().cloned().collect::<Vec<_>>() {
            self.model.excuse(&service);
        }
        signal(reconciler, Signal::SIGTERM);
    }

    fn kill_reconciler(&mut self) {
        if let Some(reconciler) = self.world.reconciler_process() {
            signal(reconciler, Signal::SIGKILL);
            self.tally.reconcilers_killed += 1;
        }
    }

    fn kill_keeper(&mut self) {
        if let Some(keeper) = self.world.keeper_process() {
            signal(keeper, Signal::SIGKILL);
            self.tally.keepers_killed += 1;
        }
    }

    fn freeze(&mut self, process: Option<Process>) {
        let Some(process) = process else { return };
        signal(process, Signal::SIGSTOP);
        self.tally.frozen += 1;
        let until = Instant::now() + Duration::from_millis(self.random.u64(50..2500));
        self.frozen.push((until, process));
    }

    fn thaw_those_due(&mut self) {
        let now = Instant::now();
        for (_, process) in self.frozen.extract_if(.., |(until, _)| *until <= now) {
            signal(process, Signal::SIGCONT);
        }
    }

    /// No more acts: everybody runs, and a watcher is in charge.
    pub fn calm(&mut self) {
        for (_, process) in self.frozen.drain(..) {
            signal(process, Signal::SIGCONT);
        }
        // A manifest that cannot be read may declare whatever was removed: it holds every removal until it is mended.
        if self.random.bool() || std::mem::take(&mut self.something_is_gone) {
            self.mend();
        }
        self.removals = 0;
    }

    /// Whoever converges now is not a `--once` that gives up.
    pub fn put_watcher_in_charge(&mut self) {
        reap();
        self.world.reconcile(&["up", "--quiet"]);
    }

    /// The reconciler has shown that it took everything in.
    pub fn settled(&mut self) {
        self.model.manifests.values_mut().for_each(|manifest| manifest.is_settled = true);
    }
}
