//! From what is typed to services: `web`, `shop/web`, `shop/*` for a whole project, and labels that narrow it down.
//!
//! Pure. Called for every command that names services, so that an unknown name is refused in the same
//! words everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::command::Refusal;
use crate::identity::ServiceId;

/// The labels of a service.
pub type Labels = BTreeMap<String, String>;

/// The services that one word of a command means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Selector {
    /// `web`, `shop/web`, or `shop/*`.
    Name(String),
    /// Of these, or of all where there is no name, those with all of the labels. A watcher that does not know labels
    /// refuses it, as it must: it would take all.
    Labelled { name: Option<String>, labels: Vec<Wanted> },
}

/// What is wanted of a label: `owner=agent-7`, `owner!=agent-7`, or `owner`, which means that there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wanted {
    key: String,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Any,
    Is(String),
    /// Also of a service without that label.
    IsNot(String),
}

/// The services that `selectors` mean; all of `known` if there are none.
///
/// The first that means nothing refuses them all: half a command is never carried out.
pub fn select(
    selectors: &[Selector],
    known: &BTreeMap<ServiceId, &Labels>,
) -> Result<BTreeSet<ServiceId>, Refusal> {
    if selectors.is_empty() {
        return Ok(known.keys().cloned().collect());
    }
    let mut selected = BTreeSet::new();
    for selector in selectors {
        let found = selector.matching(known)?;
        if found.is_empty() {
            return Err(selector.unknown(known));
        }
        selected.extend(found);
    }
    Ok(selected)
}

impl Selector {
    /// All of a project.
    pub fn project(project: &str) -> Self {
        Self::Name(format!("{project}/*"))
    }

    /// With these labels; without any, `name` by itself.
    pub fn labelled(name: Option<String>, labels: &[Wanted]) -> Option<Self> {
        match name {
            name if !labels.is_empty() => Some(Self::Labelled { name, labels: labels.to_vec() }),
            Some(name) => Some(Self::Name(name)),
            None => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Labelled { name, .. } => name.as_deref(),
        }
    }

    fn labels(&self) -> &[Wanted] {
        match self {
            Self::Name(_) => &[],
            Self::Labelled { labels, .. } => labels,
        }
    }

    /// It means this service, whatever its labels.
    pub fn may_mean(&self, service: &ServiceId) -> bool {
        self.name().is_none_or(|name| match name.strip_suffix("/*") {
            Some(project) => service.project() == project,
            None => ServiceId::parse(name).is_ok_and(|named| named == *service),
        })
    }

    fn matching(&self, known: &BTreeMap<ServiceId, &Labels>) -> Result<Vec<ServiceId>, Refusal> {
        if let Some(name) = self.name().filter(|name| !name.ends_with("/*")) {
            ServiceId::parse(name).map_err(|error| Refusal {
                code: "bad-name".to_owned(),
                message: format!("`{name}` is not the name of a service: {error}"),
                help: None,
            })?;
        }
        let is_meant = |(service, labels): &(&ServiceId, &&Labels)| {
            self.may_mean(service) && self.labels().iter().all(|wanted| wanted.is_met(labels))
        };
        Ok(known.iter().filter(is_meant).map(|(service, _)| service.clone()).collect())
    }

    fn unknown(&self, known: &BTreeMap<ServiceId, &Labels>) -> Refusal {
        let name = self.name().unwrap_or_default();
        let is_there = self.name().is_none() || known.keys().any(|service| self.may_mean(service));
        let help = match known
            .keys()
            .map(|id| (slips(name, id), id))
            .filter(|(slips, _)| !is_there && *slips <= (name.chars().count() / 3).max(1))
            .min_by_key(|(slips, _)| *slips)
        {
            Some((_, id)) => format!("did you mean `{id}`?"),
            None => "`reconcile status` lists them".to_owned(),
        };
        let message = match is_there {
            true => format!("no service is meant by {self}"),
            false => format!("there is no service `{name}`"),
        };
        Refusal { code: "unknown-service".to_owned(), message, help: Some(help) }
    }
}

impl From<&str> for Selector {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// `shop/* -l owner=agent-7`, as it was typed.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels().iter().map(|wanted| format!("-l {wanted}"));
        let words: Vec<String> = self.name().map(str::to_owned).into_iter().chain(labels).collect();
        f.write_str(&words.join(" "))
    }
}

impl Wanted {
    pub fn is_met(&self, labels: &Labels) -> bool {
        let found = labels.get(&self.key);
        match &self.value {
            Value::Any => found.is_some(),
            Value::Is(value) => found == Some(value),
            Value::IsNot(value) => found != Some(value),
        }
    }
}

impl TryFrom<String> for Wanted {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            None => (text, Value::Any),
            Some((key, value)) => match key.strip_suffix('!') {
                Some(key) => (key, Value::IsNot(value.to_owned())),
                None => (key, Value::Is(value.to_owned())),
            },
        };
        if key.is_empty() {
            return Err("a label is `key=value`, `key!=value`, or `key`".to_owned());
        }
        Ok(Self { key: key.to_owned(), value })
    }
}

impl From<Wanted> for String {
    fn from(wanted: Wanted) -> Self {
        wanted.to_string()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Any => f.write_str(&self.key),
            Value::Is(value) => write!(f, "{}={value}", self.key),
            Value::IsNot(value) => write!(f, "{}!={value}", self.key),
        }
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

    /// `owner` of each.
    const KNOWN: [(&str, &str); 4] = [("web", "a"), ("api", ""), ("shop/web", "a"), ("shop/db", "b")];

    fn select(selectors: &[Selector]) -> Result<BTreeSet<ServiceId>, Refusal> {
        let labels = KNOWN.map(|(name, owner)| {
            let owner = (!owner.is_empty()).then(|| ("owner".to_owned(), owner.to_owned()));
            (ServiceId::parse(name).unwrap(), Labels::from_iter(owner))
        });
        super::select(selectors, &labels.iter().map(|(id, labels)| (id.clone(), labels)).collect())
    }

    fn names(list: &[&str]) -> Vec<Selector> {
        list.iter().map(|name| Selector::from(*name)).collect()
    }

    fn labelled(name: Option<&str>, labels: &[&str]) -> Vec<Selector> {
        let labels: Vec<Wanted> = labels.iter().map(|wanted| wanted.parse().unwrap()).collect();
        Selector::labelled(name.map(str::to_owned), &labels).into_iter().collect()
    }

    fn selected(selectors: &[Selector]) -> Vec<String> {
        select(selectors).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_name_selects_everything_and_a_star_a_project() {
        assert_eq!(selected(&[]), ["api", "web", "shop/db", "shop/web"]);
        assert_eq!(selected(&names(&["shop/*"])), ["shop/db", "shop/web"]);
        assert_eq!(selected(&names(&["web", "shop/web", "web"])), ["web", "shop/web"]);
    }

    #[test]
    fn labels_narrow_down_what_is_named() {
        assert_eq!(selected(&labelled(None, &["owner=a"])), ["web", "shop/web"]);
        assert_eq!(selected(&labelled(None, &["owner!=a"])), ["api", "shop/db"]);
        assert_eq!(selected(&labelled(None, &["owner", "owner!=a"])), ["shop/db"]);
        assert_eq!(selected(&labelled(Some("shop/*"), &["owner=a"])), ["shop/web"]);
        assert_eq!(selected(&labelled(Some("web"), &["owner=a"])), ["web"]);
    }

    #[test]
    fn what_no_service_has_is_refused_as_it_was_typed() {
        let message = |selectors: &[Selector]| select(selectors).unwrap_err().message;
        assert_eq!(message(&labelled(Some("web"), &["owner=b"])), "no service is meant by web -l owner=b");
        assert_eq!(message(&labelled(None, &["a=b", "c"])), "no service is meant by -l a=b -l c");
        assert_eq!(message(&labelled(Some("wbe"), &["owner=a"])), "there is no service `wbe`");
        assert!("=a".parse::<Wanted>().is_err());
    }

    #[test]
    fn a_name_is_a_string_and_labels_stand_beside_it() {
        let json = |selectors: &[Selector]| serde_json::to_string(selectors).unwrap();
        assert_eq!(json(&names(&["web"])), r#"["web"]"#);
        let labelled = labelled(Some("shop/*"), &["owner!=a=b"]);
        assert_eq!(json(&labelled), r#"[{"name":"shop/*","labels":["owner!=a=b"]}]"#);
        assert_eq!(serde_json::from_str::<Vec<Selector>>(&json(&labelled)).unwrap(), labelled);
    }

    #[test]
    fn one_unknown_name_refuses_all_and_says_what_was_meant() {
        let refusal = select(&names(&["web", "wbe"])).unwrap_err();
        assert_eq!(
            (refusal.code.as_str(), refusal.help.as_deref()),
            ("unknown-service", Some("did you mean `web`?"))
        );
        let refusal = select(&names(&["db"])).unwrap_err();
        assert_eq!(refusal.help.as_deref(), Some("did you mean `shop/db`?"));
        let refusal = select(&names(&["none/*"])).unwrap_err();
        assert_eq!(refusal.help.as_deref(), Some("`reconcile status` lists them"));
    }

    #[test]
    fn what_cannot_be_a_name_is_not_called_unknown() {
        assert_eq!(select(&names(&["../x"])).unwrap_err().code, "bad-name");
    }
}
