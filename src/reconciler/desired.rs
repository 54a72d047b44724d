//! The look at the manifests: roots listed and recognised, and what is desired worked out anew.
//!
//! Called when files or policy may have changed, not in every pass. Which texts are accepted is `accept`'s,
//! what is wanted of each service `wants`'; this joins the two and publishes the problems of files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use super::Reconciler;
use super::addresses::{warn_of_addresses, warn_of_empty_patterns};
use super::dependencies::warn_of_dependencies;
use super::news::{FileNews, TARGET};
use super::ownership::{FileStanding, InForce, settle};
use super::roots::{lost_directories, recognise, shown_path, unread_files};
use crate::host::state_dir::Sharer;
use crate::host::{Dirty, FileVersion, Host, RootScan};
use crate::identity::{Digest, ServiceId};
use crate::manifest::Problem;
use crate::plan::{RootState, Want};
use crate::state::{FileKey, RootKey};
use crate::time::{Clock, Stamp};

/// A manifest file with its problems, for the status.
#[derive(Debug, Clone)]
pub struct FileView {
    pub path: PathBuf,
    pub problems: Vec<Problem>,
    pub may_show_lines: bool,
    /// What was read; `None` for what is not a file.
    pub version: Option<FileVersion>,
}

/// What a look at the manifests came to, beside what is desired.
#[derive(Debug, Default)]
pub struct Manifests {
    pub files: Vec<FileView>,
    /// Since when nothing below a root has changed, by root.
    pub quiet_since: BTreeMap<RootKey, Stamp>,
    /// Digest of the versions of all files at the last look, to see whether anything has changed.
    versions: BTreeMap<RootKey, u64>,
}

impl<H: Host> Reconciler<H> {
    /// Looks at what may have changed and works out anew what is desired.
    pub(super) fn look_at_manifests(&mut self, dirty: &Dirty) {
        self.library.set_default_ttl(self.policy.default_ttl());
        if *dirty == Dirty::Everything {
            self.judged_well.clear();
            self.resolve_entries();
        }
        let scans = self.host.scan(dirty);
        let now = self.host.now();
        let keyed = self.recognise_roots(scans);
        self.watch_quiet(&keyed, &now);
        let mut files = self.standings(&keyed);
        let mut in_force = self.settle(&mut files);
        self.text_is_refused = self.keep_texts(&mut files, &in_force);
        if self.text_is_refused {
            in_force = self.settle(&mut files);
        }
        self.note_accepted(&keyed, &files, &in_force);
        let ledger = self.memory.ledger();
        warn_of_dependencies(&mut files, &in_force, |service| ledger.services.contains_key(service));
        warn_of_addresses(&mut files, &in_force, |spec| self.render_addresses(spec));
        warn_of_empty_patterns(&mut files, &in_force);
        self.desired.roots = keyed
            .iter()
            .map(|(key, scan)| {
                let lost = lost_directories(self.memory.ledger(), key, scan);
                let unread = unread_files(key, scan, &files);
                let quiet_for = now.since(&self.manifests.quiet_since[key], Clock::Awake);
                (
                    key.clone(),
                    RootState {
                        path: scan.path.clone(),
                        lost,
                        checkout: scan.checkout.clone(),
                        unread,
                        quiet_for,
                    },
                )
            })
            .collect();
        let wants = self.wants(&keyed, &files, &in_force);
        let before = std::mem::replace(&mut self.desired.services, wants);
        self.look_at_files();
        self.retry_failed_spawns();
        self.publish_files(&keyed, &files);
        if *dirty == Dirty::Everything {
            self.forget_texts(&files);
            let all: Vec<ServiceId> = self.observed.services.keys().cloned().collect();
            return self.compare(all);
        }
        let changed = self.changed_since(&before);
        self.compare(changed);
    }

    /// Services whose accepted version is another than before.
    fn changed_since(&self, before: &BTreeMap<ServiceId, Want>) -> Vec<ServiceId> {
        let is_changed = |(service, want): &(&ServiceId, &Want)| {
            before.get(*service).is_none_or(|before| digest_of(before) != digest_of(want))
        };
        self.desired.services.iter().filter(is_changed).map(|(service, _)| service.clone()).collect()
    }

    fn settle(&self, files: &mut [FileStanding]) -> Vec<InForce> {
        let ledger = self.memory.ledger();
        let owner_of = |service: &ServiceId| ledger.entry(service)?.file.as_ref();
        settle(files, owner_of, |spec| self.render_addresses(spec))
    }

    /// How long each root has been quiet, as of `now`: the one input of the plan that changes by itself.
    pub(super) fn refresh_quiet(&mut self, now: &Stamp) {
        for (key, root) in &mut self.desired.roots {
            if let Some(since) = self.manifests.quiet_since.get(key) {
                root.quiet_for = now.since(since, Clock::Awake);
            }
        }
    }

    fn recognise_roots(&mut self, scans: Vec<RootScan>) -> Vec<(RootKey, RootScan)> {
        let mut taken = BTreeSet::new();
        let mut keyed = Vec::new();
        let mut records = Vec::new();
        self.root_problems.clear();
        for scan in scans {
            self.root_problems.extend(problems_of_directories(&scan));
            let Some((key, record)) = recognise(self.memory.ledger(), &scan, &taken) else { continue };
            taken.insert(key.clone());
            records.extend(record);
            keyed.push((key, scan));
        }
        if !records.is_empty() {
            self.memory.note(&mut self.host, records);
        }
        keyed
    }

    /// Who manages our roots beside us.
    pub(super) fn look_for_sharers(&mut self) {
        self.shared_roots = self.host.sharers().into_iter().map(view_of_sharer).collect();
    }

    fn watch_quiet(&mut self, keyed: &[(RootKey, RootScan)], now: &Stamp) {
        for (key, scan) in keyed {
            let print = versions_digest(scan);
            if self.manifests.versions.insert(key.clone(), print) != Some(print) {
                self.manifests.quiet_since.insert(key.clone(), now.clone());
            }
        }
    }

    fn publish_files(&mut self, keyed: &[(RootKey, RootScan)], files: &[FileStanding]) {
        let mut views: Vec<FileView> = files
            .iter()
            .map(|file| FileView {
                path: shown_path(keyed, &file.key),
                problems: file.problems.clone(),
                may_show_lines: file.scan.may_show_lines,
                version: Some(file.scan.version),
            })
            .collect();
        views.extend(self.root_problems.iter().chain(&self.shared_roots).cloned());
        views.sort_by(|a, b| a.path.cmp(&b.path));
        self.manifests.files = views;
        if self.settings.watching {
            self.tell_of_files();
        }
    }

    /// A watcher has nobody to answer: it says what is wrong once, when it comes up, and when it is well again.
    fn tell_of_files(&mut self) {
        let files = self.manifests.files.iter().map(|file| (file.path.as_path(), file.problems.as_slice()));
        for news in self.told_wrongs.update(files) {
            match news {
                FileNews::Wrong { path, problems } => {
                    for Problem { span, code, message, help, .. } in problems {
                        let (line, column) = (span.map(|span| span.line), span.map(|span| span.column));
                        tracing::warn!(target: TARGET, file = %path.display(), line, column, code, help, "{message}");
                    }
                }
                FileNews::Well { path } => {
                    tracing::warn!(target: TARGET, file = %path.display(), "it has no problem any more");
                }
            }
        }
    }

    fn forget_texts(&mut self, files: &[FileStanding]) {
        let named: HashSet<&Digest> = self.memory.ledger().texts().into_iter().collect();
        let known: HashSet<&FileKey> = files.iter().map(|file| &file.key).collect();
        self.library.retain(|key| known.contains(key), |digest| named.contains(digest));
    }
}

fn digest_of(want: &Want) -> Option<&Digest> {
    want.accepted.as_ref().map(|accepted| &accepted.digest)
}

/// Of the root itself, or of what is below it and was not entered.
fn problems_of_directories(scan: &RootScan) -> Vec<FileView> {
    let view =
        |path, problem| FileView { path, problems: vec![problem], may_show_lines: false, version: None };
    match &scan.listing {
        Err((code, sentence)) => {
            let problem = Problem::new(code, format!("{} {sentence}", scan.path.display()));
            let problem = match code.as_str() {
                "root-missing" => problem.help("`reconcile init` makes it; `--manifests DIR` names another"),
                _ => problem,
            };
            vec![view(scan.path.clone(), problem)]
        }
        Ok(listing) => {
            let refused =
                listing.directories.iter().filter_map(|(path, found)| Some((path, found.as_ref().err()?)));
            refused
                .map(|(path, sentence)| {
                    let problem = Problem::new("directory-not-loaded", format!("it {sentence}"));
                    view(scan.path.join(path), problem)
                })
                .collect()
        }
    }
}

fn view_of_sharer(sharer: Sharer) -> FileView {
    let (dir, who) = (sharer.state_dir.display(), sharer.who());
    let problem = Problem::warning(
        "shared-root",
        format!("the state directory {dir} was used for this root too, and is in use ({who}): both may start its services"),
    )
    .help(format!("end one of them, `reconcile --state-dir {dir} down`, or give each its own root"));
    FileView { path: sharer.root, problems: vec![problem], may_show_lines: false, version: None }
}

fn versions_digest(scan: &RootScan) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    match &scan.listing {
        Err((code, _)) => code.hash(&mut hasher),
        Ok(listing) => {
            for (path, file) in &listing.files {
                path.hash(&mut hasher);
                file.version.hash(&mut hasher);
            }
            for (path, found) in &listing.directories {
                path.hash(&mut hasher);
                found.as_ref().ok().hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}
