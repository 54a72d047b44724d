//! The clocks, the boot id and random numbers: the only places they are read.
//!
//! Called by both hosts' callers through [`Host::now`](super::Host::now) and by the keeper. Sources:
//! clock_gettime(2); proc(5), `/proc/sys/kernel/random/boot_id`; random(4).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

use crate::identity::{BootId, InstanceId, Nonce};
use crate::time::Stamp;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Without the boot id no process of an earlier boot can be told from one of this.
#[derive(Debug, thiserror::Error)]
#[error("read the boot id from {BOOT_ID}; is /proc mounted?")]
pub struct NoBootId(#[source] pub io::Error);

/// The kernel's boot id, read once.
pub fn boot_id() -> Result<BootId, NoBootId> {
    static READ: OnceLock<BootId> = OnceLock::new();
    if let Some(boot) = READ.get() {
        return Ok(boot.clone());
    }
    let text = fs::read_to_string(BOOT_ID).map_err(NoBootId)?;
    Ok(READ.get_or_init(|| BootId::new(&text)).clone())
}

/// All clocks, one after the other, microseconds apart.
///
/// # Panics
///
/// If the boot id cannot be read; `main` asks [`boot_id`] first and says so there.
pub fn now() -> Stamp {
    Stamp {
        boot: boot_id().expect("main has read the boot id"),
        boottime_ms: milliseconds(ClockId::CLOCK_BOOTTIME).max(0) as u64,
        awake_ms: milliseconds(ClockId::CLOCK_MONOTONIC).max(0) as u64,
        wall_ms: milliseconds(ClockId::CLOCK_REALTIME),
    }
}

fn milliseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("Linux has had this clock since 2.6.39");
    time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000
}

/// The kernel's random numbers.
#[derive(Debug)]
pub struct Random(File);

impl Random {
    pub fn open() -> io::Result<Self> {
        File::open("/dev/urandom").map(Self)
    }

    pub fn nonce(&mut self) -> Nonce {
        Nonce::from_u64(self.number())
    }

    pub fn instance(&mut self) -> InstanceId {
        InstanceId::from_u64(self.number())
    }

    pub fn key(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.read_exact(&mut bytes).expect("random(4): an open /dev/urandom always answers");
        bytes
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes).expect("random(4): an open /dev/urandom always answers");
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    #[test]
    fn the_boot_id_is_a_uuid_and_stays() {
        let boot = boot_id().unwrap();
        assert_eq!(boot.as_str().len(), 36);
        assert_eq!(now().boot, boot);
    }

    #[test]
    fn the_clocks_go_forward_and_are_close_to_those_of_std() {
        let (first, second) = (now(), now());
        assert!(second.boottime_ms >= first.boottime_ms && second.awake_ms >= first.awake_ms);
        assert!(first.boottime_ms >= first.awake_ms, "suspended time is in one of them only");
        assert!(second.since(&first, Clock::Suspend).as_secs() < 60);
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!((wall.as_millis() as i64 - second.wall_ms).abs() < 60_000);
    }

    #[test]
    fn random_numbers_differ() {
        let mut random = Random::open().unwrap();
        assert_ne!(random.nonce(), random.nonce());
        assert_ne!(random.instance(), random.instance());
    }
}
