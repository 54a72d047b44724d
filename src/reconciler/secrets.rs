//! Secrets: had at each start, told to nobody but the service, and compared by keyed digests.
//!
//! Called by `files`, which looks at all that a start is given. No value leaves this but in what a process is given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Reconciler;
use super::command::Refusal;
use super::files::Files;
use super::options::Options;
use super::place::Place;
use super::preview::preview;
use super::selection::Selector;
use super::session::{LOCK_PATIENCE, OpenError};
use crate::host::state_dir::{ReconcilerLock, Standing, StateDir};
use crate::host::{Host, UserFacts, clock, credentials, secret_key};
use crate::identity::ServiceId;
use crate::manifest::{Rendered, Secret, SecretForm, SecretSource, Spec, escape};
use crate::state::{Reason, SecretKey};

impl Files {
    fn give(&mut self, name: &str, form: SecretForm, value: String) {
        let to = match form {
            SecretForm::Variable => &mut self.env,
            SecretForm::File => &mut self.credentials,
        };
        to.insert(name.to_owned(), value);
    }
}

impl<H: Host> Reconciler<H> {
    /// Adds those of `spec` to what a start of it is given.
    pub(super) fn add_secrets(
        &mut self,
        spec: &Spec,
        rendered: &Rendered,
        reader: Option<&UserFacts>,
        commanded: &BTreeMap<String, String>,
        files: &mut Files,
    ) {
        if spec.secrets.is_empty() {
            return;
        }
        let unavailable = |name: &str, why: String| Reason::SecretUnavailable { name: name.to_owned(), why };
        let key = match self.host.secret_key() {
            Ok(Some(key)) => key,
            // Nothing was started with a secret yet, and who only looks starts nothing.
            Ok(None) => return,
            Err(why) => {
                let name = spec.secrets.keys().next().map_or("", String::as_str);
                files.gate.get_or_insert_with(|| unavailable(name, why));
                return;
            }
        };
        files.marks.key = Some(key.id());
        for (name, secret) in &spec.secrets {
            let path = rendered.secret_files.get(name).map(AsRef::as_ref);
            if let SecretSource::Command(_) = &secret.source {
                let value = commanded.get(name);
                let digest = match value {
                    Some(value) => Some(key.digest(name, value)),
                    None => self.refreshed_digest(&spec.id, name),
                };
                files.marks.secrets.extend(digest.map(|digest| (name.clone(), digest)));
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    files.give(name, secret.given_as, value.clone());
                }
                continue;
            }
            match self.secret(spec, secret, path, reader, &key) {
                Ok(Some(value)) => {
                    files.marks.secrets.insert(name.clone(), key.digest(name, &value));
                    files.give(name, secret.given_as, value);
                }
                Ok(None) if secret.optional => {}
                Ok(None) => {
                    let why = match &secret.source {
                        SecretSource::File(_) => {
                            format!("there is no {}", path.unwrap_or(Path::new("")).display())
                        }
                        SecretSource::Env(variable) => {
                            format!("the environment of the reconciler has no {}", escape(variable))
                        }
                        SecretSource::Derived(_) | SecretSource::Command(_) => {
                            unreachable!("it is derived of what is there, or had before")
                        }
                    };
                    files.gate.get_or_insert_with(|| unavailable(name, why));
                }
                Err(why) => {
                    files.gate.get_or_insert_with(|| unavailable(name, why));
                }
            }
        }
        let bytes: usize = files.credentials.values().map(String::len).sum();
        if bytes > credentials::MAX_BYTES {
            let name = files.credentials.keys().next().map_or("", String::as_str);
            let why = format!(
                "those that are given as files come to {bytes} bytes, over {}",
                credentials::MAX_BYTES
            );
            files.gate.get_or_insert_with(|| unavailable(name, why));
        }
    }

    fn secret(
        &mut self,
        spec: &Spec,
        secret: &Secret,
        path: Option<&Path>,
        reader: Option<&UserFacts>,
        key: &SecretKey,
    ) -> Result<Option<String>, String> {
        let value = match &secret.source {
            SecretSource::Derived(label) => Some(key.derive(&self.settings.instance, &spec.id, label)),
            SecretSource::Command(_) => None,
            SecretSource::Env(variable) => self.host.environment().get(variable).cloned(),
            SecretSource::File(_) => {
                let path = path.expect("a file is rendered");
                let text = self.host.read_file(path, reader);
                let text = text.map_err(|sentence| format!("{} {sentence}", path.display()))?;
                // Editors end the last line; no secret ends with a line.
                text.map(|text| text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned())
            }
        };
        match value {
            Some(value) if value.contains('\0') => {
                Err("it has a zero byte, which no variable can have".to_owned())
            }
            value => Ok(value),
        }
    }
}

/// The derived secret of a label that a service declares, for whoever may read the state. Whoever has none yet is given
/// one, so that the other side of a webhook can be told before the first start.
pub fn derived(
    options: &Options,
    service: &ServiceId,
    label: &str,
) -> Result<Result<String, Refusal>, OpenError> {
    let place = Place::of(options);
    let found = StateDir::find(&place.wanted(options))?;
    let labels = match labels_of(options, &place, found.as_ref(), service)? {
        Ok(labels) => labels,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if !labels.contains(label) {
        return Ok(Err(unknown_label(service, label, &labels)));
    }
    if let Some(state_dir) = &found {
        match state_dir.standing()? {
            Standing::Ours { instance, .. } => {
                let key = secret_key::read(state_dir.layout()).map_err(OpenError::SecretKey)?;
                if let Some(key) = key {
                    return Ok(Ok(key.derive(&instance, service, label)));
                }
            }
            Standing::New => {}
            // Its own instance is the one that a reconciler would begin.
            Standing::Foreign { .. } => return Ok(Err(foreign())),
        }
    }
    let state_dir = StateDir::open(&place.wanted(options))?;
    let lock = ReconcilerLock::acquire(state_dir.layout(), LOCK_PATIENCE)?;
    let mut random = clock::Random::open().map_err(OpenError::Random)?;
    let standing = match state_dir.standing()? {
        Standing::New => state_dir.settle(&lock, &mut random)?,
        known => known,
    };
    state_dir.record_roots(&place.roots, &lock)?;
    let Standing::Ours { instance, .. } = standing else { return Ok(Err(foreign())) };
    let key = secret_key::read_or_make(state_dir.layout(), &mut random).map_err(OpenError::SecretKey)?;
    Ok(Ok(key.derive(&instance, service, label)))
}

/// Those that the manifest of a service derives secrets of.
fn labels_of(
    options: &Options,
    place: &Place,
    state_dir: Option<&StateDir>,
    service: &ServiceId,
) -> Result<Result<BTreeSet<String>, Refusal>, OpenError> {
    let mut reconciler = preview(options, place, state_dir)?;
    reconciler.preview();
    let accepted = match reconciler.selected(&[Selector::Name(service.to_string())]) {
        Ok(_) => reconciler.accepted(service),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some(accepted) = accepted else {
        let message = format!("no version of `{service}` has been accepted");
        let help = Some(format!("`reconcile status {service}` says why"));
        return Ok(Err(Refusal { code: "rejected".to_owned(), message, help }));
    };
    let labels = accepted.spec.secrets.values().filter_map(|secret| match &secret.source {
        SecretSource::Derived(label) => Some(label.clone()),
        SecretSource::File(_) | SecretSource::Env(_) | SecretSource::Command(_) => None,
    });
    Ok(Ok(labels.collect()))
}

fn unknown_label(service: &ServiceId, label: &str, labels: &BTreeSet<String>) -> Refusal {
    let help = if labels.is_empty() {
        "it declares none; write `secrets.NAME = { derive = \"label\" }`".to_owned()
    } else {
        format!("its labels are {}", labels.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    };
    let message = format!("`{service}` declares no secret that is derived of `{}`", escape(label));
    Refusal { code: "unknown-label".to_owned(), message, help: Some(help) }
}

fn foreign() -> Refusal {
    Refusal {
        code: "foreign-ledger".to_owned(),
        message: "the state directory is a copy of another one, whose secrets are not its own".to_owned(),
        help: Some("`reconcile takeover` makes it the owner, `--new-instance` begins anew".to_owned()),
    }
}
