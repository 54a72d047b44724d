//! What a run has said of itself: that it is ready, lives, stops, needs more time, and what it is at.
//!
//! Heard by the keeper, which keeps the sum of it for as long as the run lives; judged by `plan`. Texts of services
//! are cut short and freed of control characters. Source: sd_notify(3).

use serde::{Deserialize, Serialize};

use crate::time::Stamp;

/// Characters of a status that are kept.
const MAX_STATUS: usize = 256;

/// All that a run has said so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// That it is ready, for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Stamp>,
    /// That it has begun to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Stamp>,
    /// That it lives, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<Stamp>,
    /// That it has found itself broken (`WATCHDOG=trigger`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended: Option<Extension>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// More time, counted from when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub at: Stamp,
    pub by_ms: u64,
}

/// How soon whoever judges it has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// When it is asked for: that it lives is said all the time.
    WhenAsked,
    Soon,
    AtOnce,
}

impl Said {
    /// Takes in one datagram: lines of `NAME=value`, of which those that are not known mean nothing.
    pub fn hear(&mut self, datagram: &[u8], at: &Stamp) -> News {
        let text = String::from_utf8_lossy(datagram);
        let known = text.lines().filter_map(|line| line.split_once('='));
        known.map(|(name, value)| self.hear_one(name, value, at)).max().unwrap_or(News::WhenAsked)
    }

    fn hear_one(&mut self, name: &str, value: &str, at: &Stamp) -> News {
        match (name, value) {
            ("READY", "1") => first(&mut self.ready, at),
            ("STOPPING", "1") => first(&mut self.stopping, at),
            ("WATCHDOG", "1") => {
                self.alive = Some(at.clone());
                News::WhenAsked
            }
            ("WATCHDOG", "trigger") => first(&mut self.broken, at),
            ("EXTEND_TIMEOUT_USEC", usec) => {
                let Ok(usec) = usec.parse::<u64>() else { return News::WhenAsked };
                self.extended = Some(Extension { at: at.clone(), by_ms: usec / 1000 });
                News::Soon
            }
            ("STATUS", text) => {
                let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_STATUS).collect();
                let status = Some(text).filter(|text| !text.is_empty());
                let is_news = self.status != status;
                self.status = status;
                if is_news { News::Soon } else { News::WhenAsked }
            }
            _ => News::WhenAsked,
        }
    }
}

fn first(said: &mut Option<Stamp>, at: &Stamp) -> News {
    if said.is_some() {
        return News::WhenAsked;
    }
    *said = Some(at.clone());
    News::AtOnce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::BootId;

    fn at(awake_ms: u64) -> Stamp {
        Stamp { boot: BootId::new("b"), boottime_ms: awake_ms, awake_ms, wall_ms: 0 }
    }

    #[test]
    fn what_is_said_adds_up_and_what_is_not_known_means_nothing() {
        let mut said = Said::default();
        assert_eq!(said.hear(b"STATUS=loading\x1b[31m\n", &at(1)), News::Soon);
        assert_eq!(said.hear(b"MAINPID=1\nFDSTORE=1\nREADY\n\xff=\xff", &at(2)), News::WhenAsked);
        assert_eq!(said.hear(b"EXTEND_TIMEOUT_USEC=2500000", &at(3)), News::Soon);
        assert_eq!(said.hear(b"READY=1\nSTATUS=serving", &at(4)), News::AtOnce);
        assert_eq!(said.hear(b"READY=1\nWATCHDOG=1", &at(5)), News::WhenAsked);
        assert_eq!(said.hear(b"STOPPING=1", &at(6)), News::AtOnce);
        let expected = Said {
            ready: Some(at(4)),
            stopping: Some(at(6)),
            alive: Some(at(5)),
            broken: None,
            extended: Some(Extension { at: at(3), by_ms: 2500 }),
            status: Some("serving".into()),
        };
        assert_eq!(said, expected);
        assert_eq!(said.hear(b"WATCHDOG=trigger\nSTATUS=", &at(7)), News::AtOnce);
        assert_eq!((said.broken, said.status), (Some(at(7)), None));
    }

    #[test]
    fn a_status_without_end_is_cut_short() {
        let mut said = Said::default();
        said.hear(format!("STATUS={}", "é".repeat(5000)).as_bytes(), &at(1));
        assert_eq!(said.status.unwrap().chars().count(), MAX_STATUS);
    }
}
