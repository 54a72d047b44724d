//! Durations and sizes as manifests write them, and the one way that we write them back.
//!
//! The written form goes into fingerprints, so it is made here and not by a library that may change it.

use std::time::Duration;

/// The longest duration text: beyond it, sums of years overflow the parser's arithmetic.
const MAX_DURATION_BYTES: usize = 40;
/// The longest number in one: likewise.
const MAX_DURATION_DIGITS: usize = 11;

/// Parses `250ms`, `10s`, `1h 30m`; `Err` is a lower-case fragment.
///
/// Whole milliseconds only, since no clock of ours is finer.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > MAX_DURATION_BYTES || digits > MAX_DURATION_DIGITS {
        return Err("it is longer than any duration need be".to_owned());
    }
    let duration = humantime::parse_duration(text).map_err(|error| duration_error(&error))?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err("it is finer than a millisecond".to_owned());
    }
    Ok(duration)
}

fn duration_error(error: &humantime::DurationError) -> String {
    use humantime::DurationError as Error;
    match error {
        Error::Empty => "it is empty".to_owned(),
        Error::UnknownUnit { unit, .. } if unit.is_empty() => "it has no unit".to_owned(),
        Error::UnknownUnit { unit, .. } => {
            format!("`{}` is no unit of time", super::diagnostic::escape(unit))
        }
        Error::NumberOverflow => "it is too large, or too fine".to_owned(),
        Error::InvalidCharacter(_) | Error::NumberExpected(_) => {
            "a duration is a number and a unit, one or several times".to_owned()
        }
    }
}

/// The duration in the largest unit that holds it without a fraction: `250ms`, `90s`, `4h`.
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    match UNITS.iter().find(|(unit, _)| millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// Units of a size, larger ones first.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Parses `10MiB`, `512kB`, `0B`; `Err` is a lower-case fragment.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or("it has no unit")?;
    let (number, unit) = (&text[..unit_at], text[unit_at..].trim_start());
    if number.is_empty() {
        return Err("a size is a whole number and a unit".to_owned());
    }
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
        let units: Vec<&str> = SIZE_UNITS.iter().rev().map(|(name, _)| *name).collect();
        format!("`{}` is none of the units {}", super::diagnostic::escape(unit), units.join(" "))
    })?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    // The largest number is what the kernel takes for `unlimited`.
    bytes.filter(|bytes| *bytes < u64::MAX).ok_or_else(|| "it is larger than any memory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_written_in_the_largest_whole_unit() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1500ms"),
            (90_000, "90s"),
            (14_400_000, "4h"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn durations_that_are_none_say_why() {
        for (text, why) in [
            ("", "it is empty"),
            ("10", "it has no unit"),
            ("10 parsecs", "`parsecs` is no unit of time"),
            ("1us", "it is finer than a millisecond"),
            ("-1s", "a duration is a number and a unit, one or several times"),
            ("123456789012s", "it is longer than any duration need be"),
            // A panic in humantime 2.4, were it let through.
            ("18446744073709551615s 1000ms", "it is longer than any duration need be"),
        ] {
            assert_eq!(parse_duration(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_size("512 kB"), Ok(512_000));
        assert_eq!(parse_size("0B"), Ok(0));
        for bad in ["", "10", "MiB", "10 mb", "1.5GiB", "-1B", "99999999999999TiB", "18446744073709551615B"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_written(millis in 0..u64::from(u32::MAX)) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[0-9]{0,20}[a-z µ.]{0,8}[0-9]{0,20}[a-z ]{0,8}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
