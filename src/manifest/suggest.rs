//! "Did you mean": the field or word that was probably meant.

use super::fields::{Table, fields};

/// Words of other supervisors, and what they are here.
const ALIASES: &[(&str, &str)] = &[
    ("args", "command"),
    ("cmd", "command"),
    ("directory", "cwd"),
    ("environment", "env"),
    ("exec", "command"),
    ("exec_start", "command"),
    ("grace_period", "grace"),
    ("healthcheck", "health"),
    ("max_restarts", "max_failures"),
    ("path", "cwd"),
    ("period", "interval"),
    ("run", "command"),
    ("start_period", "start_timeout"),
    ("tags", "labels"),
    ("workdir", "cwd"),
    ("working_dir", "cwd"),
    ("working_directory", "cwd"),
];

/// The nearest of `words`, if one is near.
pub(crate) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // A hostile key may be a megabyte long, and the distance costs the product of the lengths.
    const MAX_BYTES: usize = 40;
    if word.len() > MAX_BYTES {
        return None;
    }
    let allowed = 1 + word.chars().count() / 4;
    words
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Help for an unknown key `word` of a table with these fields and tables.
pub(super) fn field(table: &Table, tables: &[&'static str], word: &str) -> Option<String> {
    let here = || table.fields.iter().map(super::fields::Field::key).chain(tables.iter().copied());
    let lower = word.to_ascii_lowercase().replace('-', "_");
    let alias = ALIASES.iter().find(|(other, _)| *other == lower).map(|(_, ours)| *ours);
    let meant = alias.or_else(|| nearest(&lower, here()));
    if let Some(meant) = meant.filter(|meant| here().any(|key| key == *meant)) {
        return Some(format!("did you mean `{meant}`?"));
    }
    let elsewhere = fields().find(|field| field.key() == meant.unwrap_or(&lower));
    elsewhere.map(|field| match field.path.split_once('.') {
        Some((table, key)) => format!("did you mean `{key}` in `[service.NAME.{table}]`?"),
        None => format!("did you mean `{}` in `[service.NAME]`?", field.path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::fields::table;

    fn suggested(table_name: &str, word: &str) -> Option<String> {
        field(table(table_name), if table_name.is_empty() { &["health", "stop"] } else { &[] }, word)
    }

    #[test]
    fn near_misses_and_words_of_others_are_recognised() {
        for (word, meant) in [
            ("comand", "did you mean `command`?"),
            ("Command", "did you mean `command`?"),
            ("start-settle", "did you mean `start_settle`?"),
            ("working_directory", "did you mean `cwd`?"),
            ("healthcheck", "did you mean `health`?"),
            ("grace", "did you mean `grace` in `[service.NAME.stop]`?"),
        ] {
            assert_eq!(suggested("", word).as_deref(), Some(meant), "{word}");
        }
        assert_eq!(suggested("stop", "env").as_deref(), Some("did you mean `env` in `[service.NAME]`?"));
        assert_eq!(suggested("restart", "maxfailures").as_deref(), Some("did you mean `max_failures`?"));
    }

    #[test]
    fn what_is_far_from_everything_gets_no_suggestion() {
        for word in ["quux", "x", "", &"command".repeat(100)] {
            assert_eq!(suggested("", word), None, "{word}");
        }
    }
}
