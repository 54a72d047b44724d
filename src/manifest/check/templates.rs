//! Whether every template names something known, and what they fill in to is bounded.
//!
//! Sizes are worked out without filling anything in: variables that double each other would otherwise make
//! gigabytes of a few lines.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::marks::Marks;
use super::ports::Declared;
use super::vars::Vars;

use crate::manifest::code;
use crate::manifest::diagnostic::escape;
use crate::manifest::ports::CheckPort;
use crate::manifest::problems::Problems;
use crate::manifest::section::{Section, Text};
use crate::manifest::spec::{HealthCheck, SecretSource, Spec};
use crate::manifest::suggest;
use crate::manifest::template::{Piece, is_templated, pieces};

/// `MAX_ARG_STRLEN` of the kernel less its NUL: execve(2) takes no longer argument or variable.
const MAX_TEXT_BYTES: usize = 128 * 1024 - 1;
/// Half of what execve(2) takes at the usual stack limit: variables are inherited as well.
const MAX_PROCESS_BYTES: usize = 1024 * 1024;
/// `PATH_MAX`: what `{{cwd}}` may fill in to beside what is written.
const MAX_PATH_BYTES: usize = 4096;
/// How many variables may refer to each other in a row.
const MAX_LINKS: usize = 32;

/// What templates of a service may name.
pub(super) struct Known<'a> {
    env: Option<&'a DeTable<'a>>,
    ports: &'a Declared,
    holes: Holes<'a>,
}

/// What becomes of `{{vars.NAME}}` where a service is read.
#[derive(Clone, Copy)]
pub(super) enum Holes<'a> {
    /// It is a template: they stay open, and the rest of what is named may be the service's to declare.
    Open,
    /// They have these values, and are filled in but in commands: those are split into words before.
    Filled(&'a Vars<'a>),
}

impl<'a> Known<'a> {
    /// The keys of `env` and the names of `ports`, those with a bad value too: one mistake is one problem.
    pub(super) fn of(section: &Section<'a, '_, '_>, ports: &'a Declared, holes: Holes<'a>) -> Self {
        let env = match section.find("env").map(|(_, value)| value.get_ref()) {
            Some(DeValue::Table(entries)) => Some(entries),
            _ => None,
        };
        Self { env, ports, holes }
    }

    /// A word of a command with its holes filled in.
    pub(super) fn fill(&self, word: &str) -> String {
        match self.holes {
            Holes::Open => word.to_owned(),
            Holes::Filled(vars) => vars.fill(word),
        }
    }

    fn declares(&self, key: &str) -> bool {
        self.is_open() || self.env.is_some_and(|env| env.contains_key(key))
    }

    /// False, and reported, if a template in `text` is not closed or names nothing known.
    pub(super) fn check(&self, text: &Text<'_>, problems: &mut Problems<'_>) -> bool {
        if !is_templated(text.text) {
            return true;
        }
        let mut is_good = true;
        let place_of = text.parts(problems.text());
        for (part, piece) in pieces(text.text) {
            let place = place_of(part);
            match piece {
                Piece::Unclosed(_) => {
                    problems.add(place, code::BAD_TEMPLATE, "`{{` has no `}}`").help(LITERAL);
                }
                Piece::Unknown(name) => {
                    let message = format!("`{{{{{}}}}}` names nothing", escape(name));
                    problems.add(place, code::UNKNOWN_TEMPLATE, message).help_with(|| Some(help_for(name)));
                }
                Piece::Env(key) if !self.declares(key) => {
                    let message = format!("`{}` is not declared in `env`", escape(key));
                    let help = || Some(self.help_for_variable(key));
                    problems.add(place, code::UNKNOWN_TEMPLATE, message).help_with(help);
                }
                Piece::Port(name, index) => {
                    let Some((message, help)) = self.unknown_port(name, index) else { continue };
                    problems.add(place, code::UNKNOWN_TEMPLATE, message).help(help);
                }
                Piece::Var(name) if !self.gives(name) => {
                    let message = format!("`vars.{}` is not given", escape(name));
                    let report = problems.add(place, code::MISSING_VAR, message);
                    report.help("give it in `vars` of the service, or write the value itself");
                }
                Piece::Var(_) => continue,
                Piece::Literal(_)
                | Piece::Name
                | Piece::Project
                | Piece::Cwd
                | Piece::Work
                | Piece::Env(_) => continue,
            }
            is_good = false;
        }
        is_good
    }

    fn is_open(&self) -> bool {
        matches!(self.holes, Holes::Open)
    }

    fn gives(&self, var: &str) -> bool {
        match self.holes {
            Holes::Open => true,
            Holes::Filled(vars) => vars.get(var).is_some(),
        }
    }

    /// False, and reported, if no port has this name.
    pub(super) fn check_port(&self, name: &Text<'_>, problems: &mut Problems<'_>) -> bool {
        let Some((message, help)) = self.unknown_port(name.text, 0) else { return true };
        problems.add(name.place.clone(), code::BAD_PORT, message).help(help);
        false
    }

    fn unknown_port(&self, name: &str, index: u16) -> Option<(String, String)> {
        if self.is_open() {
            return None;
        }
        let shown = escape(name);
        match self.ports.get(name) {
            Some(Some(port)) if index >= port.count => {
                let message = format!("`ports.{shown}` has {}, and this is {index}", ports_of(port.count));
                let help = format!(
                    "count from 0, or declare more: `{shown} = {{ auto = true, count = {} }}`",
                    u32::from(index) + 1
                );
                Some((message, help))
            }
            Some(_) => None,
            None => {
                let message = format!("`{shown}` is not declared in `ports`");
                let help = match suggest::nearest(name, self.ports.keys().map(String::as_str)) {
                    Some(declared) => format!("did you mean `{}`?", escape(declared)),
                    None if name.parse::<u16>().is_ok() => {
                        format!("write a number without quotes: `port = {name}`")
                    }
                    None => format!("declare it: `ports = {{ {shown} = \"auto\" }}`"),
                };
                Some((message, help))
            }
        }
    }

    fn help_for_variable(&self, key: &str) -> String {
        let declared = self.env.into_iter().flatten().map(|(key, _)| key.get_ref().as_ref());
        match suggest::nearest(key, declared) {
            Some(declared) => format!("did you mean `{{{{env.{}}}}}`?", escape(declared)),
            None => "declare it in `env`; inherited variables cannot be filled in".to_owned(),
        }
    }
}

fn ports_of(count: u16) -> String {
    if count == 1 { "one port".to_owned() } else { format!("{count} ports") }
}

const LITERAL: &str = "write `{{{{` for the characters themselves";

fn help_for(name: &str) -> String {
    match suggest::nearest(name, ["name", "project", "cwd", "state.work"].into_iter()) {
        Some(meant) => format!("did you mean `{{{{{meant}}}}}`?"),
        None => format!(
            "there are `{{{{name}}}}`, `{{{{project}}}}`, `{{{{cwd}}}}`, `{{{{env.KEY}}}}`, `{{{{ports.NAME}}}}` and \
             `{{{{state.work}}}}`; {LITERAL}"
        ),
    }
}

/// False, and reported, if templates refer to each other in a circle or fill in to too much; false without
/// a report if one of them was bad before.
pub(super) fn check(spec: &Spec, marks: &Marks<'_>, problems: &mut Problems<'_>) -> bool {
    // Without templates nothing is larger than the file.
    if problems.text().len() <= MAX_TEXT_BYTES && !problems.text_is_templated() {
        return true;
    }
    let before = problems.count();
    let mut sizes = Sizes { spec, marks, problems, done: BTreeMap::new(), path: Vec::new() };
    let env: Option<usize> =
        spec.env.keys().map(|key| Some(key.len() + sizes.of_node(Node::Env(key))?.bytes)).sum();
    let argv: Option<usize> =
        spec.command.words().into_iter().map(|word| sizes.of_text(word, "command")).sum();
    let others: Option<usize> =
        other_texts(spec).into_iter().map(|(field, text)| sizes.of_text(text, field)).sum();
    let attrs: Option<usize> =
        texts_in(&spec.attrs).into_iter().map(|text| sizes.of_text(text, "attrs")).sum();
    let (Some(env), Some(argv), Some(_), Some(attrs)) = (env, argv, others, attrs) else { return false };
    if env + argv > MAX_PROCESS_BYTES {
        let message = format!(
            "command and variables come to {} bytes, a process is given at most {MAX_PROCESS_BYTES}",
            env + argv
        );
        problems.add(marks.of("command"), code::TEMPLATE_TOO_LARGE, message);
    }
    if attrs > MAX_PROCESS_BYTES {
        let message = format!("`attrs` fills in to {attrs} bytes, and {MAX_PROCESS_BYTES} are possible");
        problems.add(marks.of("attrs"), code::TEMPLATE_TOO_LARGE, message);
    }
    problems.count() == before
}

/// Every other text that is filled in.
fn other_texts(spec: &Spec) -> Vec<(&'static str, &str)> {
    let mut texts = vec![("cwd", spec.cwd.as_str())];
    texts.extend(spec.cwd_before.iter().flatten().map(|path| ("cwd", path.as_str())));
    texts.extend(spec.env_file.iter().map(|file| ("env_file", file.path.as_str())));
    texts.extend(spec.secrets.values().flat_map(|secret| match &secret.source {
        SecretSource::File(path) => vec![("secrets", path.as_str())],
        SecretSource::Command(command) => {
            command.argv.iter().map(|word| ("secrets", word.as_str())).collect()
        }
        SecretSource::Env(_) | SecretSource::Derived(_) => Vec::new(),
    }));
    texts.extend(spec.restart_on.iter().map(|path| ("restart_on", path.as_str())));
    texts.extend(spec.reload.on.iter().map(|path| ("reload.on", path.as_str())));
    texts.extend(spec.url.iter().map(|url| ("url", url.as_str())));
    texts.extend(spec.activation.proxy.iter().map(|proxy| ("activation.proxy", proxy.as_str())));
    texts.extend(spec.sockets.values().map(|socket| ("sockets", socket.listen.as_str())));
    match spec.health.as_ref().map(|health| &health.check) {
        Some(HealthCheck::Http { url, .. }) => texts.push(("health.url", url)),
        Some(HealthCheck::Tcp { host, port }) => {
            texts.push(("health.host", host));
            if let CheckPort::Text(text) = port {
                texts.push(("health.port", text));
            }
        }
        Some(HealthCheck::Command { command, .. }) => {
            texts.extend(command.words().into_iter().map(|word| ("health.command", word)));
        }
        Some(HealthCheck::Log { .. } | HealthCheck::Notify { .. }) | None => {}
    }
    if let Some(command) = &spec.reload.command {
        texts.extend(command.words().into_iter().map(|word| ("reload.command", word)));
    }
    if let Some(command) = &spec.stop.command {
        texts.extend(command.words().into_iter().map(|word| ("stop.command", word)));
    }
    texts
}

/// Every text in `attrs`, however deep.
fn texts_in(attrs: &serde_json::Map<String, Value>) -> Vec<&str> {
    let mut texts = Vec::new();
    let mut left: Vec<&Value> = attrs.values().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => texts.push(text.as_str()),
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => left.extend(entries.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    texts
}

/// A text that others can refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node<'s> {
    Cwd,
    Env(&'s str),
}

impl Node<'_> {
    fn show(self) -> String {
        match self {
            Self::Cwd => "cwd".to_owned(),
            Self::Env(key) => format!("env.{}", escape(key)),
        }
    }
}

/// What a text fills in to at most.
#[derive(Clone, Copy)]
struct Size {
    bytes: usize,
    /// References in a row.
    links: usize,
}

struct Sizes<'s, 'p, 't> {
    spec: &'s Spec,
    marks: &'p Marks<'p>,
    problems: &'p mut Problems<'t>,
    /// `None`: it is bad, and that was reported.
    done: BTreeMap<Node<'s>, Option<Size>>,
    /// From what we came to where we are.
    path: Vec<Node<'s>>,
}

impl<'s> Sizes<'s, '_, '_> {
    /// The size of a text that nothing refers to.
    fn of_text(&mut self, text: &'s str, field: &str) -> Option<usize> {
        let size = self.sum(text)?;
        self.is_bounded(size, self.marks.of(field)).then_some(size.bytes)
    }

    fn of_node(&mut self, node: Node<'s>) -> Option<Size> {
        if let Some(done) = self.done.get(&node) {
            return *done;
        }
        if let Some(first) = self.path.iter().position(|earlier| *earlier == node) {
            self.report_cycle(first);
            return None;
        }
        let size = self.of_new_node(node);
        self.done.insert(node, size);
        size
    }

    fn of_new_node(&mut self, node: Node<'s>) -> Option<Size> {
        let spec = self.spec;
        let (text, own) = match node {
            Node::Cwd => (spec.cwd.as_str(), MAX_PATH_BYTES),
            // A variable with a bad value: reported where it stands.
            Node::Env(key) => (spec.env.get(key)?.as_str(), 0),
        };
        if self.path.len() == MAX_LINKS {
            self.report_links(node);
            return None;
        }
        self.path.push(node);
        let size = self.sum(text);
        self.path.pop();
        let size = Size { bytes: size?.bytes.saturating_add(own), links: size?.links + 1 };
        if size.links > MAX_LINKS {
            self.report_links(node);
            return None;
        }
        self.is_bounded(size, self.place_of(node)).then_some(size)
    }

    fn sum(&mut self, text: &'s str) -> Option<Size> {
        let mut sum = Size { bytes: 0, links: 0 };
        for (_, piece) in pieces(text) {
            let size = match piece {
                Piece::Literal(literal) => Size { bytes: literal.len(), links: 0 },
                Piece::Name => Size { bytes: self.spec.id.name().len(), links: 0 },
                Piece::Project => Size { bytes: self.spec.id.project().len(), links: 0 },
                Piece::Cwd => self.of_node(Node::Cwd)?,
                Piece::Work => Size { bytes: MAX_PATH_BYTES, links: 0 },
                Piece::Env(key) => self.of_node(Node::Env(key))?,
                Piece::Port(..) => Size { bytes: "65535".len(), links: 0 },
                Piece::Var(_) | Piece::Unknown(_) | Piece::Unclosed(_) => return None,
            };
            sum.bytes = sum.bytes.saturating_add(size.bytes);
            sum.links = sum.links.max(size.links);
        }
        Some(sum)
    }

    fn is_bounded(&mut self, size: Size, place: Range<usize>) -> bool {
        if size.bytes > MAX_TEXT_BYTES {
            let message = format!("this fills in to {} bytes, and {MAX_TEXT_BYTES} are possible", size.bytes);
            self.problems.add(place, code::TEMPLATE_TOO_LARGE, message);
        }
        size.bytes <= MAX_TEXT_BYTES
    }

    fn place_of(&self, node: Node<'_>) -> Range<usize> {
        match node {
            Node::Cwd => self.marks.of("cwd"),
            Node::Env(key) => self.marks.of_variable(key),
        }
    }

    fn report_links(&mut self, node: Node<'_>) {
        let message = format!("more than {MAX_LINKS} variables refer to each other in a row");
        self.problems.add(self.place_of(node), code::TEMPLATE_TOO_LARGE, message);
    }

    fn report_cycle(&mut self, first: usize) {
        let circle = self.path[first..].iter().chain([&self.path[first]]);
        let shown: Vec<String> = circle.map(|node| format!("`{}`", node.show())).collect();
        let message = format!("templates refer to each other in a circle: {}", shown.join(" → "));
        self.problems.add(self.place_of(self.path[first]), code::TEMPLATE_CYCLE, message);
    }
}
