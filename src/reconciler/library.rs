//! Manifest texts made into accepted specs, each text once.
//!
//! Cached by the version of the file on disk and by the digest of the text, so that a pass over thousands of
//! unchanged files parses nothing. Decides nothing about who may run what.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::host::{FileScan, FileVersion, Host};
use crate::identity::{Digest, ServiceId};
use crate::manifest::{self, Borrowed, Problem, Span, Template, Unread};
use crate::plan::Accepted;
use crate::state::FileKey;

/// One text, parsed and checked.
#[derive(Debug)]
pub struct Loaded {
    pub digest: Digest,
    /// Without problems only.
    pub services: Vec<Arc<Accepted>>,
    /// Places in `services`, in the order of the names.
    by_name: Box<[u32]>,
    /// Where the names of `services` stand.
    spans: Box<[Span]>,
    /// Where each dependency of each service is named.
    needs: HashMap<(ServiceId, ServiceId), Span>,
    /// The services with a problem, as far as it can be told which they are.
    pub rejected: Vec<ServiceId>,
    pub problems: Vec<Problem>,
    /// What else it may declare, where it has problems.
    pub unread: Arc<Unread>,
    /// For the services of other files.
    pub templates: Vec<Arc<Template>>,
    /// Those of other files that it uses.
    pub borrowed: Vec<Borrowed>,
}

impl Loaded {
    fn from_text(digest: Digest, text: &str, default_ttl: Option<Duration>) -> Self {
        let loaded = manifest::load(text);
        let spans = loaded.services.iter().map(|declared| declared.span).collect();
        let mut needs = HashMap::new();
        for declared in &loaded.services {
            let service = &declared.spec.id;
            needs.extend(declared.needs.iter().map(|(need, span)| ((service.clone(), need.clone()), *span)));
        }
        let mut services: Vec<Arc<Accepted>> = loaded
            .services
            .into_iter()
            .map(|declared| {
                let mut spec = declared.spec;
                spec.ttl = spec.ttl.or(default_ttl);
                let fingerprint = manifest::fingerprint(&spec);
                let live_digest = manifest::live_digest(&spec);
                Arc::new(Accepted { spec, digest: digest.clone(), fingerprint, live_digest })
            })
            .collect();
        // They were collected in place, where whole specs had been: a hundred times the room that they need.
        services.shrink_to_fit();
        let mut by_name: Box<[u32]> = (0..services.len() as u32).collect();
        by_name.sort_unstable_by_key(|place| &services[*place as usize].spec.id);
        Self {
            digest,
            by_name,
            spans,
            needs,
            rejected: loaded.rejected,
            problems: loaded.problems,
            unread: Arc::new(loaded.unread),
            templates: loaded.templates.into_iter().map(Arc::new).collect(),
            borrowed: loaded.borrowed,
            services,
        }
    }

    pub fn service(&self, id: &ServiceId) -> Option<&Arc<Accepted>> {
        self.place(id).map(|place| &self.services[place])
    }

    /// Where `service` names `dependency`.
    pub fn place_of_need(&self, service: &ServiceId, dependency: &ServiceId) -> Option<Span> {
        self.needs.get(&(service.clone(), dependency.clone())).copied()
    }

    fn place(&self, id: &ServiceId) -> Option<usize> {
        let name_at = |place: &u32| &self.services[*place as usize].spec.id;
        let found = self.by_name.binary_search_by_key(&id, name_at).ok()?;
        Some(self.by_name[found] as usize)
    }

    /// The problem at the name of the service that it is about, unless it has a place of its own.
    pub fn placed(&self, problem: Problem, id: &ServiceId) -> Problem {
        match self.place(id) {
            Some(place) if problem.span.is_none() => problem.at(self.spans[place]),
            Some(_) | None => problem,
        }
    }
}

#[derive(Debug, Default)]
pub struct Library {
    /// Of the policy in force: every spec that leaves here has it, so that no two readers of one text differ.
    default_ttl: Option<Duration>,
    by_file: HashMap<FileKey, (FileVersion, Arc<Loaded>)>,
    by_digest: HashMap<Digest, Arc<Loaded>>,
    /// Of files that use templates of others.
    made_whole: HashMap<FileKey, MadeWhole>,
}

/// A whole text and what it was made of.
#[derive(Debug)]
struct MadeWhole {
    own: Arc<Loaded>,
    templates: Vec<Arc<Template>>,
    whole: Whole,
}

/// A text with the templates of other files that it uses, see `templates`.
#[derive(Debug, Clone)]
pub struct Whole {
    pub text: Arc<str>,
    pub loaded: Arc<Loaded>,
}

impl Library {
    /// Puts the policy's TTL into force for manifests that give none; texts are read anew if it is another.
    pub fn set_default_ttl(&mut self, ttl: Option<Duration>) {
        if self.default_ttl != ttl {
            *self = Self { default_ttl: ttl, ..Self::default() };
        }
    }

    #[cfg(test)]
    pub(super) fn read(&self, text: &str) -> Arc<Loaded> {
        Arc::new(Loaded::from_text(Digest::of(text.as_bytes()), text, self.default_ttl))
    }

    /// The file's present text, or the problem of the file itself.
    pub fn load(&mut self, key: &FileKey, scan: &FileScan) -> Result<Arc<Loaded>, Problem> {
        let text =
            scan.content.as_ref().map_err(|(code, sentence)| Problem::new(code, format!("it {sentence}")))?;
        if let Some((version, loaded)) = self.by_file.get(key)
            && *version == scan.version
        {
            return Ok(Arc::clone(loaded));
        }
        let loaded = self.read_text(text);
        self.by_file.insert(key.clone(), (scan.version, Arc::clone(&loaded)));
        Ok(loaded)
    }

    /// A file's text with these templates of other files.
    pub fn make_whole(
        &mut self,
        key: &FileKey,
        (own, text): (&Arc<Loaded>, &str),
        templates: Vec<Arc<Template>>,
    ) -> Whole {
        if let Some(made) = self.made_whole.get(key)
            && Arc::ptr_eq(&made.own, own)
            && made.templates == templates
        {
            return made.whole.clone();
        }
        let text: Arc<str> = manifest::compose(text, templates.iter().map(Arc::as_ref)).into();
        let whole = Whole { loaded: self.read_text(&text), text };
        let made = MadeWhole { own: Arc::clone(own), templates, whole: whole.clone() };
        self.made_whole.insert(key.clone(), made);
        whole
    }

    /// A text that is the same as another, or was read ahead, is known.
    pub fn read_text(&mut self, text: &str) -> Arc<Loaded> {
        let digest = Digest::of(text.as_bytes());
        if let Some(loaded) = self.by_digest.get(&digest) {
            return Arc::clone(loaded);
        }
        let loaded = Arc::new(Loaded::from_text(digest.clone(), text, self.default_ttl));
        self.by_digest.insert(digest, Arc::clone(&loaded));
        loaded
    }

    /// An accepted text of before, by its digest; `None` if the state directory has lost it.
    pub fn recall<H: Host>(&mut self, host: &mut H, digest: &Digest) -> Option<Arc<Loaded>> {
        if let Some(loaded) = self.by_digest.get(digest) {
            return Some(Arc::clone(loaded));
        }
        let loaded = Arc::new(Loaded::from_text(digest.clone(), &host.text(digest)?, self.default_ttl));
        self.by_digest.insert(digest.clone(), Arc::clone(&loaded));
        Some(loaded)
    }

    /// Drops what no file and none of the given digests needs any more.
    pub fn retain(&mut self, files: impl Fn(&FileKey) -> bool, digests: impl Fn(&Digest) -> bool) {
        self.by_file.retain(|key, _| files(key));
        self.made_whole.retain(|key, _| files(key));
        let own = self.by_file.values().map(|(_, loaded)| loaded);
        let whole = self.made_whole.values().map(|made| &made.whole.loaded);
        let in_files: HashSet<Digest> = own.chain(whole).map(|loaded| loaded.digest.clone()).collect();
        self.by_digest.retain(|digest, _| in_files.contains(digest) || digests(digest));
    }
}
