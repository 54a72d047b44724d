//! Acts for a while, then quiet and a judgement, again and again.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::driver::{Driver, Tally};
use crate::model::Ends;
use crate::oracle;
use crate::world::{Setting, World, reap};

/// From the last act until the world is what is declared; met only by a failure, on any machine.
const CONVERGED_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy)]
pub struct Soak {
    pub seed: u64,
    pub length: Duration,
    pub setting: Setting,
}

#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub looks: u32,
    pub acts: u32,
    pub passes: usize,
    pub births: usize,
    pub tally: Tally,
    pub violations: Vec<String>,
    /// Where the world was left, and what it looked like, after a violation.
    pub left: Option<(PathBuf, String)>,
}

impl Soak {
    pub fn run(self, binary: &Path) -> Report {
        // Not by the macro, whose output a test runner keeps to itself.
        let _ = writeln!(io::stderr(), "seed {}", self.seed);
        let mut driver = Driver::new(World::new(binary, self.setting), self.seed);
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_add(1));
        let end = Instant::now() + self.length;
        let (mut acts, mut looks) = (0, 0);
        let mut violations = Vec::new();
        driver.put_watcher_in_charge();
        while violations.is_empty() && Instant::now() < end {
            for _ in 0..random.u32(1..12) {
                driver.act();
                acts += 1;
            }
            driver.calm();
            violations = judge(&mut driver);
            looks += 1;
        }
        let log = std::fs::read_to_string(driver.world.path("reconciler.log")).unwrap_or_default();
        let births = driver.world.register().read().values().map(|life| life.leaders().count()).sum();
        let left = (!violations.is_empty()).then(|| {
            let text = driver.world.describe();
            (driver.world.keep(), text)
        });
        driver.world.end();
        Report {
            seed: self.seed,
            looks,
            acts,
            passes: log.matches(" pass ").count(),
            births,
            tally: driver.tally,
            violations,
            left,
        }
    }
}

/// Waits until the world is what is declared, and says what is not, or should never have been.
fn judge(driver: &mut Driver) -> Vec<String> {
    let deadline = Instant::now() + CONVERGED_WITHIN;
    let mut well: BTreeSet<String> = BTreeSet::new();
    let amiss = loop {
        driver.put_watcher_in_charge();
        reap();
        let lives = driver.world.register().read();
        let mut amiss = oracle::amiss_now(&driver.model, &lives);
        let is_amiss = |name: &str| amiss.iter().any(|line| line.starts_with(&format!("{name}: ")));
        // Of one that comes and goes all the time it is enough to have been well at some moment.
        let restless = driver.model.declared().filter(|service| service.behaviour.ends == Ends::Unclean);
        for service in restless {
            if !is_amiss(&service.name) {
                well.insert(service.name.clone());
            }
        }
        amiss.retain(|line| !line.split_once(": ").is_some_and(|(name, _)| well.contains(name)));
        let wrong = oracle::wrong_for_ever(&driver.model, &lives);
        if !wrong.is_empty() {
            break wrong;
        }
        if amiss.is_empty() {
            match driver.world.status() {
                Some(status) => {
                    let claims = claims(&status, driver);
                    if claims.is_empty() {
                        driver.settled();
                        break Vec::new();
                    }
                    amiss = claims;
                }
                None => amiss.push("`status` does not answer".into()),
            }
        }
        if Instant::now() > deadline {
            break amiss;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    [amiss, std::mem::take(&mut driver.wrong)].concat()
}

/// What `status` says that is not so.
fn claims(status: &Value, driver: &Driver) -> Vec<String> {
    // Read after it was asked: whatever it knows has happened by now.
    let lives = driver.world.register().read();
    let mut claims = oracle::invented_exits(status, &lives);
    claims.extend(oracle::held(&driver.model, status));
    if status["watching"] != true {
        claims.push("nobody watches".into());
    }
    claims
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { edits, reconcilers_killed, keepers_killed, workers_killed, frozen, rivals } = self.tally;
        writeln!(f, "seed                {}", self.seed)?;
        writeln!(f, "acts                {}, of which {edits} edits of manifests", self.acts)?;
        writeln!(f, "looks               {}", self.looks)?;
        writeln!(f, "passes              {}", self.passes)?;
        writeln!(f, "starts of services  {}", self.births)?;
        writeln!(
            f,
            "kills               {reconcilers_killed} of reconcilers, {keepers_killed} of keepers, \
             {workers_killed} of services"
        )?;
        writeln!(f, "freezes             {frozen}")?;
        writeln!(f, "rivals              {rivals}")?;
        write!(f, "violations          {}", self.violations.len())?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        if let Some((path, text)) = &self.left {
            write!(f, "\nthe world is left in {}\n{text}", path.display())?;
        }
        Ok(())
    }
}
