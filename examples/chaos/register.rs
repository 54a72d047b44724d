//! What the workers wrote down, and which of them live: read from outside, by pid and start ticks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    pub ticks: u64,
}

impl Process {
    /// A zombie is dead.
    pub fn is_alive(self) -> bool {
        ticks_of(self.pid) == Some(self.ticks)
    }
}

/// Start ticks of the process that has this pid, unless it is dead.
pub fn ticks_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") { None } else { fields.get(19)?.parse().ok() }
}

#[derive(Debug, Clone, Copy)]
pub struct Birth {
    pub process: Process,
    pub generation: u32,
    /// `None`: it is the leader itself.
    pub leader: Option<i32>,
}

/// All that is on record of one service.
#[derive(Debug, Clone, Default)]
pub struct Life {
    pub births: Vec<Birth>,
    /// `(generation, code, of its own accord)`
    pub exits: Vec<(u32, i32, bool)>,
    /// Leaders that were born while others of the service lived.
    pub beside: Vec<String>,
}

impl Life {
    pub fn leaders(&self) -> impl Iterator<Item = &Birth> {
        self.births.iter().filter(|birth| birth.leader.is_none())
    }

    pub fn live_leaders(&self) -> Vec<Birth> {
        self.leaders().filter(|birth| birth.process.is_alive()).copied().collect()
    }

    /// Every live process of it.
    pub fn alive(&self) -> Vec<Birth> {
        self.births.iter().filter(|birth| birth.process.is_alive()).copied().collect()
    }
}

#[derive(Debug)]
pub struct Register {
    dir: PathBuf,
}

impl Register {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Every service that ever wrote a line. A line that is torn is not there yet.
    pub fn read(&self) -> BTreeMap<String, Life> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name, life(&fs::read_to_string(entry.path()).ok()?)))
            })
            .collect()
    }
}

fn life(text: &str) -> Life {
    let mut life = Life::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
        match (words.first().copied(), words.get(4).copied()) {
            (Some("born"), Some(role)) => {
                let (Some(pid), Some(ticks), Some(generation)) = (number(1), number(2), number(3)) else {
                    continue;
                };
                let process = Process { pid: pid as i32, ticks: ticks as u64 };
                let leader = (role == "child").then(|| number(5).unwrap_or(0) as i32);
                life.births.push(Birth { process, generation: generation as u32, leader });
            }
            (Some("exit"), Some(_)) => {
                if let (Some(generation), Some(code)) = (number(3), number(4)) {
                    life.exits.push((generation as u32, code as i32, words.get(5) == Some(&"itself")));
                }
            }
            (Some("beside"), _) => life.beside.push(line.to_owned()),
            _ => {}
        }
    }
    life
}
