#![no_main]

#[path = "../../tests/checks/mod.rs"]
#[expect(dead_code, reason = "a target is one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::control::check(data));
