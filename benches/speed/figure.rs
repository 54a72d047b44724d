//! Figures, the floors beside them, and the table that shows both.

use std::fmt;
use std::time::Duration;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub enum Value {
    Time(Duration),
    Bytes(u64),
}

impl Value {
    fn ratio(self, floor: Self) -> Option<f64> {
        match (self, floor) {
            (Self::Time(ours), Self::Time(floor)) if !floor.is_zero() => {
                Some(ours.as_secs_f64() / floor.as_secs_f64())
            }
            (Self::Bytes(ours), Self::Bytes(floor)) if floor > 0 => Some(ours as f64 / floor as f64),
            _ => None,
        }
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => {
                let us = time.as_secs_f64() * 1e6;
                match us {
                    0.0..1_000.0 => write!(f, "{us:.0} µs"),
                    1_000.0..100_000.0 => write!(f, "{:.1} ms", us / 1e3),
                    _ => write!(f, "{:.0} ms", us / 1e3),
                }
            }
            Self::Bytes(bytes) if *bytes < 1_000_000 => write!(f, "{:.0} kB", *bytes as f64 / 1e3),
            Self::Bytes(bytes) => write!(f, "{:.1} MB", *bytes as f64 / 1e6),
        }
    }
}

/// What we want a figure to be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// At most so many times the floor.
    Times(f64),
    Below(Value),
    /// For the record.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Figure {
    pub what: String,
    pub ours: Value,
    pub floor: Option<Value>,
    pub aim: Aim,
}

impl Figure {
    pub fn new(what: impl Into<String>, ours: impl Into<Value>) -> Self {
        Self { what: what.into(), ours: ours.into(), floor: None, aim: Aim::None }
    }

    pub fn beside(self, floor: impl Into<Value>) -> Self {
        Self { floor: Some(floor.into()), ..self }
    }

    pub fn aim(self, aim: Aim) -> Self {
        Self { aim, ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.ours.ratio(self.floor?)
    }

    fn verdict(&self) -> &'static str {
        let met = match self.aim {
            Aim::None => return "",
            Aim::Below(bound) => self.ours < bound,
            Aim::Times(bound) => self.ratio().is_some_and(|ratio| ratio <= bound),
        };
        if met { "met" } else { "missed" }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let aim = match self.aim {
            Aim::None => String::new(),
            Aim::Below(bound) => format!("< {bound}"),
            Aim::Times(bound) => format!("≤ {bound} ×"),
        };
        line(&[
            self.what.clone(),
            self.ours.to_string(),
            self.floor.map(|floor| floor.to_string()).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.1} ×")).unwrap_or_default(),
            aim,
            self.verdict().to_owned(),
        ])
    }
}

/// Wide enough for what is measured, so that lines which are shown one by one are aligned.
const WIDTHS: [usize; 6] = [78, 9, 8, 7, 8, 6];

/// The head of a Markdown table.
pub fn head() -> String {
    let rules = WIDTHS.map(|width| "-".repeat(width));
    line(&["figure", "reconcile", "floor", "ratio", "aim", ""].map(str::to_owned)) + "\n" + &line(&rules)
}

fn line(cells: &[String; 6]) -> String {
    let padded = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:<width$}"));
    format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
}

/// Measurements of one thing.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Of a fraction of all samples, none is longer than this.
    fn quantile(&self, fraction: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (fraction * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    pub fn p50(&self) -> Duration {
        self.quantile(0.50)
    }

    pub fn p95(&self) -> Duration {
        self.quantile(0.95)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}
