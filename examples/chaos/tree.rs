//! A part of the root that is a git work tree with two branches, swapped by `git checkout`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::model::{BEHAVIOURS, Declared, Manifest, Model, text};
use crate::world::World;

/// Below the root. What is in here changes by checkouts alone.
pub const PREFIX: &str = "tree/";

#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
    branches: [(&'static str, Vec<Declared>); 2],
    current: usize,
}

impl Tree {
    /// `None` without git.
    pub fn plant(world: &World, model: &mut Model) -> Option<Self> {
        let dir = world.root().join(PREFIX);
        let lasting = |at: usize| BEHAVIOURS[at];
        let common = [model.invent(lasting(0)), model.invent(lasting(2))];
        let changed = model.invent(lasting(0));
        let elsewhere = Declared { generation: model.next_generation(), ..changed.clone() };
        let left = [&common[..], &[changed, model.invent(lasting(1))]].concat();
        let right = [&common[..], &[elsewhere, model.invent(lasting(3))]].concat();
        let tree = Self { dir, branches: [("left", left), ("right", right)], current: 0 };
        std::fs::create_dir_all(&tree.dir).ok()?;
        tree.git(&["init", "-q"])?;
        tree.commit(1, world)?;
        tree.commit(0, world)?;
        tree.take_effect(model);
        Some(tree)
    }

    fn git(&self, arguments: &[&str]) -> Option<()> {
        let identity =
            ["-c", "user.name=chaos", "-c", "user.email=chaos@localhost", "-c", "safe.directory=*"];
        let status = Command::new("git")
            .args(identity)
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.ok()?.success().then_some(())
    }

    fn commit(&self, branch: usize, world: &World) -> Option<()> {
        let (name, services) = &self.branches[branch];
        self.git(&["checkout", "-q", "--orphan", name])?;
        // Files of the other branch, if there are any.
        self.git(&["rm", "-q", "-r", "-f", "--ignore-unmatch", "."])?;
        for service in services {
            let path = self.dir.join(format!("{}.toml", service.name));
            std::fs::write(path, text(std::slice::from_ref(service), &world.places())).ok()?;
        }
        self.git(&["add", "."])?;
        self.git(&["commit", "-q", "-m", name])
    }

    /// Swaps the branches under the reconciler.
    pub fn swap(&mut self, model: &mut Model) {
        let other = 1 - self.current;
        if self.git(&["checkout", "-q", self.branches[other].0]).is_none() {
            return;
        }
        self.current = other;
        // What the other branch does not have in the same form may have ended, and is born again.
        let differs = |service: &&Declared| {
            !self.branches[1 - other].1.iter().any(|its| its.generation == service.generation)
        };
        for service in self.branches[other].1.iter().filter(differs) {
            model.excuse(service);
        }
        self.take_effect(model);
    }

    fn take_effect(&self, model: &mut Model) {
        model.manifests.retain(|path, _| !path.starts_with(PREFIX));
        for service in &self.branches[self.current].1 {
            let path = format!("{PREFIX}{}.toml", service.name);
            let manifest = Manifest { services: vec![service.clone()], ..Manifest::default() };
            model.manifests.insert(path, manifest);
        }
    }
}
