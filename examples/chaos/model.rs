//! What is declared, and what must come of it: the chaos driver's own idea of the world, told by nobody.
//!
//! Every change of class restart brings a new generation, which stands in the command line of the worker, so
//! that a generation is born once, and once more for each excuse: an end of its own, or something that the
//! driver did to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How a worker behaves, by its name in `worker.pl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    pub name: &'static str,
    pub ends: Ends,
}

/// What becomes of a worker that nobody touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    Never,
    /// And is started again, as often as it ends.
    Unclean,
    /// And stays down.
    Clean,
}

const fn lasting(name: &'static str) -> Behaviour {
    Behaviour { name, ends: Ends::Never }
}

pub const BEHAVIOURS: [Behaviour; 13] = [
    lasting("steady"),
    lasting("stubborn"),
    lasting("forking"),
    lasting("bare"),
    lasting("titled"),
    lasting("away"),
    lasting("closed"),
    lasting("frozen"),
    lasting("swarm"),
    Behaviour { name: "crashing", ends: Ends::Unclean },
    Behaviour { name: "dying", ends: Ends::Unclean },
    // Leaving the foreground is a failure.
    Behaviour { name: "daemon", ends: Ends::Unclean },
    Behaviour { name: "clean", ends: Ends::Clean },
];

#[derive(Debug, Clone)]
pub struct Declared {
    pub name: String,
    pub generation: u32,
    pub behaviour: Behaviour,
    /// Changes of class none and live.
    pub remark: u32,
}

/// A manifest, as it stands or as it was last accepted.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    pub services: Vec<Declared>,
    /// It stands there broken or refused; what it declares is what it said before.
    pub is_bad: bool,
    /// The reconciler has had the time to accept it as it stands.
    pub is_settled: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    /// By path below the root.
    pub manifests: BTreeMap<String, Manifest>,
    /// Births beyond the first that each generation of a service may have had.
    excuses: BTreeMap<(String, u32), u32>,
    names: u32,
    generations: u32,
}

impl Model {
    /// A service of a name that was never used before.
    pub fn invent(&mut self, behaviour: Behaviour) -> Declared {
        self.names += 1;
        let name = format!("{}-{}", behaviour.name, self.names);
        Declared { name, generation: self.next_generation(), behaviour, remark: 0 }
    }

    pub fn next_generation(&mut self) -> u32 {
        self.generations += 1;
        self.generations
    }

    pub fn excuse(&mut self, service: &Declared) {
        *self.excuses.entry((service.name.clone(), service.generation)).or_default() += 1;
    }

    pub fn excuses(&self, name: &str, generation: u32) -> u32 {
        self.excuses.get(&(name.to_owned(), generation)).copied().unwrap_or(0)
    }

    pub fn declared(&self) -> impl Iterator<Item = &Declared> {
        self.manifests.values().flat_map(|manifest| &manifest.services)
    }

    /// Manifests that may be changed: what stands there was accepted, or is on its way to be.
    pub fn sound(&self) -> Vec<String> {
        let sound = self.manifests.iter().filter(|(_, manifest)| !manifest.is_bad);
        sound.map(|(path, _)| path.clone()).collect()
    }
}

/// Where the worker is and where it writes.
#[derive(Debug, Clone)]
pub struct Places {
    pub worker: String,
    pub register: String,
}

/// The text of a manifest that declares these.
pub fn text(services: &[Declared], places: &Places) -> String {
    let mut text = String::new();
    for Declared { name, generation, behaviour, remark } in services {
        let Places { worker, register } = places;
        // Started once per end: the breaker would be an end that the oracle does not know.
        let _ = write!(
            text,
            "[service.{name}]\n\
             command = [\"perl\", \"{worker}\", \"{register}\", \"{name}\", \"{generation}\", \"{}\"]\n\
             description = \"remark {remark}\"\n\
             start_settle = \"{}ms\"\n\
             restart = {{ backoff = \"100ms\", backoff_max = \"500ms\", max_failures = 1000 }}\n\
             stop = {{ grace = \"300ms\" }}\n\n",
            behaviour.name,
            100 + remark % 50,
        );
    }
    text
}
