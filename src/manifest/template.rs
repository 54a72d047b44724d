//! `{{name}}`, `{{project}}`, `{{cwd}}`, `{{env.KEY}}`, `{{ports.NAME}}`, `{{ports.NAME[1]}}`, `{{state.work}}`,
//! `{{vars.NAME}}` within a text; `{{{{` stands for `{{` itself.
//!
//! Splits texts into pieces; what the pieces fill in to is for `render`, whether they may for
//! `check::templates`.

use std::ops::Range;

/// What a text is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Literal(&'t str),
    Name,
    Project,
    Cwd,
    /// A directory of the service in the state directory.
    Work,
    /// The value of a variable that the service declares.
    Env(&'t str),
    /// The port of this name; of a block, the one with this index.
    Port(&'t str, u16),
    /// A hole: filled in with a value of `vars` before a service is checked.
    Var(&'t str),
    /// What stands between the braces names nothing.
    Unknown(&'t str),
    /// `{{` without `}}`.
    Unclosed(&'t str),
}

/// The pieces of `text` with their places in it, in order and without gaps.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = (Range<usize>, Piece<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (len, piece) = first_piece(&text[at..])?;
        let place = at..at + len;
        at = place.end;
        Some((place, piece))
    })
}

/// True if there is anything to fill in.
pub(super) fn is_templated(text: &str) -> bool {
    text.contains("{{")
}

fn first_piece(rest: &str) -> Option<(usize, Piece<'_>)> {
    if rest.is_empty() {
        return None;
    }
    if let Some(literal) = rest.find("{{").map_or(Some(rest), |open| (open > 0).then(|| &rest[..open])) {
        return Some((literal.len(), Piece::Literal(literal)));
    }
    if rest.starts_with("{{{{") {
        return Some((4, Piece::Literal("{{")));
    }
    let Some(close) = rest.find("}}") else { return Some((rest.len(), Piece::Unclosed(rest))) };
    Some((close + 2, named(rest[2..close].trim())))
}

fn named(name: &str) -> Piece<'_> {
    match name {
        "name" => Piece::Name,
        "project" => Piece::Project,
        "cwd" => Piece::Cwd,
        "state.work" => Piece::Work,
        _ => match name.split_once('.') {
            Some(("env", key)) if !key.is_empty() => Piece::Env(key),
            Some(("vars", var)) if !var.is_empty() => Piece::Var(var),
            Some(("ports", port)) => {
                indexed(port).map_or(Piece::Unknown(name), |(port, index)| Piece::Port(port, index))
            }
            _ => Piece::Unknown(name),
        },
    }
}

/// `agent` and `agent[1]`.
fn indexed(port: &str) -> Option<(&str, u16)> {
    let (name, index) = match port.strip_suffix(']') {
        Some(open) => {
            let (name, index) = open.split_once('[')?;
            (name, index.parse().ok().filter(|_| index.bytes().all(|byte| byte.is_ascii_digit()))?)
        }
        None => (port, 0),
    };
    (!name.is_empty() && !name.contains(['[', ']'])).then_some((name, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<Piece<'_>> {
        pieces(text).map(|(_, piece)| piece).collect()
    }

    #[test]
    fn texts_are_split_at_their_templates() {
        assert_eq!(split(""), []);
        assert_eq!(split("plain } { }}"), [Piece::Literal("plain } { }}")]);
        assert_eq!(
            split("{{name}}-{{ env.PORT }}/{{cwd}}"),
            [Piece::Name, Piece::Literal("-"), Piece::Env("PORT"), Piece::Literal("/"), Piece::Cwd]
        );
        assert_eq!(
            split("{{ports.http}}{{ports.agent[1]}}"),
            [Piece::Port("http", 0), Piece::Port("agent", 1)]
        );
        for bad in
            ["ports.", "ports.a[", "ports.a[x]", "ports.a[-1]", "ports.a[+1]", "ports.[1]", "ports.a[70000]"]
        {
            assert_eq!(split(&format!("{{{{{bad}}}}}")), [Piece::Unknown(bad)]);
        }
        assert_eq!(split("{{env.}}"), [Piece::Unknown("env.")]);
        assert_eq!(split("{{vars.a}}{{vars.}}"), [Piece::Var("a"), Piece::Unknown("vars.")]);
        assert_eq!(split("a{{name"), [Piece::Literal("a"), Piece::Unclosed("{{name")]);
    }

    #[test]
    fn doubled_braces_stand_for_themselves() {
        assert_eq!(split("{{{{.Names}}"), [Piece::Literal("{{"), Piece::Literal(".Names}}")]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_text_without_gaps(text in "([{}]{1,5}|name|env\\.|ä| ){0,12}") {
            let mut at = 0;
            for (place, _) in pieces(&text) {
                prop_assert_eq!(place.start, at);
                prop_assert!(place.end > place.start);
                at = place.end;
            }
            prop_assert_eq!(at, text.len());
        }
    }
}
