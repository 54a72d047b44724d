//! From names as typed to services: `web`, `shop/web`, or `shop/*` for a whole project.
//!
//! Pure. Called for every command that names services, so that an unknown name is refused in the same
//! words everywhere, with the name that was probably meant.

use std::collections::BTreeSet;

use super::command::Refusal;
use crate::identity::ServiceId;

/// The services that `names` name; all of `known` if `names` is empty.
///
/// The first name that selects nothing refuses them all: half a command is never carried out.
pub fn select(names: &[String], known: &BTreeSet<ServiceId>) -> Result<BTreeSet<ServiceId>, Refusal> {
    if names.is_empty() {
        return Ok(known.clone());
    }
    let mut selected = BTreeSet::new();
    for name in names {
        let found = matching(name, known)?;
        if found.is_empty() {
            return Err(unknown(name, known));
        }
        selected.extend(found);
    }
    Ok(selected)
}

fn matching(name: &str, known: &BTreeSet<ServiceId>) -> Result<Vec<ServiceId>, Refusal> {
    if let Some(project) = name.strip_suffix("/*") {
        return Ok(known.iter().filter(|id| id.project() == project).cloned().collect());
    }
    let wanted = ServiceId::parse(name).map_err(|error| Refusal {
        code: "bad-name".to_owned(),
        message: format!("`{name}` is not the name of a service: {error}"),
        help: None,
    })?;
    Ok(known.get(&wanted).cloned().into_iter().collect())
}

fn unknown(name: &str, known: &BTreeSet<ServiceId>) -> Refusal {
    let meant = known
        .iter()
        .map(|id| (slips(name, id), id))
        .filter(|(slips, _)| *slips <= (name.chars().count() / 3).max(1))
        .min_by_key(|(slips, _)| *slips);
    Refusal {
        code: "unknown-service".to_owned(),
        message: format!("there is no service `{name}`"),
        help: Some(match meant {
            Some((_, id)) => format!("did you mean `{id}`?"),
            None => "`reconcile status` lists them".to_owned(),
        }),
    }
}

/// Slips of the pen from `name` to `id`; none if only the project is missing or another one.
fn slips(name: &str, id: &ServiceId) -> usize {
    let plain = name.rsplit('/').next().unwrap_or(name);
    if plain == id.name() { 0 } else { strsim::osa_distance(name, &id.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<ServiceId> {
        ["web", "api", "shop/web", "shop/db"].iter().map(|id| ServiceId::parse(id).unwrap()).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn selected(list: &[&str]) -> Vec<String> {
        select(&names(list), &known()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_name_selects_everything_and_a_star_a_project() {
        assert_eq!(selected(&[]), ["api", "web", "shop/db", "shop/web"]);
        assert_eq!(selected(&["shop/*"]), ["shop/db", "shop/web"]);
        assert_eq!(selected(&["web", "shop/web", "web"]), ["web", "shop/web"]);
    }

    #[test]
    fn one_unknown_name_refuses_all_and_says_what_was_meant() {
        let refusal = select(&names(&["web", "wbe"]), &known()).unwrap_err();
        assert_eq!(
            (refusal.code.as_str(), refusal.help.as_deref()),
            ("unknown-service", Some("did you mean `web`?"))
        );
        let refusal = select(&names(&["db"]), &known()).unwrap_err();
        assert_eq!(refusal.help.as_deref(), Some("did you mean `shop/db`?"));
        let refusal = select(&names(&["none/*"]), &known()).unwrap_err();
        assert_eq!(refusal.help.as_deref(), Some("`reconcile status` lists them"));
    }

    #[test]
    fn what_cannot_be_a_name_is_not_called_unknown() {
        assert_eq!(select(&names(&["../x"]), &known()).unwrap_err().code, "bad-name");
    }
}
