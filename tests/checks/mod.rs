//! What holds whatever the bytes are, at each of the doors where bytes of others come in. A function a door.
//!
//! A check takes any bytes and panics if anything does not hold, with what it saw. Called by the fuzz targets
//! (`fuzz/fuzz_targets`), millions of times, and by `tests/fuzz_dose.rs`, a few thousand times with every
//! `cargo test`. The input makes all choices, so that what was found is found again.

pub mod control;
pub mod cost;
pub mod keeper_protocol;
pub mod ledger;
pub mod manifest;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Choices that an input makes by itself: the same input, the same choices.
pub struct Choices(u64);

impl Choices {
    pub fn of(data: &[u8]) -> Self {
        // FNV-1a.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(data.iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    /// One of `0..bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound.max(1)
    }
}

/// Reads a line as a value; what is read is written as one line, and read back as the same.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(line: &[u8]) -> Option<T> {
    let value = serde_json::from_slice::<T>(line).ok()?;
    assert_comes_back(&value);
    Some(value)
}

fn assert_comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let line = serde_json::to_vec(value).expect("what was read can be written");
    assert!(!line.contains(&b'\n'), "a message is one line: {value:?}");
    let again = serde_json::from_slice::<T>(&line).expect("what was written can be read");
    assert_eq!(again, *value);
}
