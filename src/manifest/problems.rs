//! Collects the problems of one text; places become lines and columns only at the end, if there are any.

use std::cell::OnceCell;
use std::ops::Range;

use super::code;
use super::compose;
use super::diagnostic::{Lines, Problem};
use super::syntax::line_around;
use super::template::is_templated;

/// More than these are not listed: nobody reads on, and a hostile text has a million.
pub(in crate::manifest) const MAX_LISTED: usize = 100;

/// What all patterns of one text may compile to. A MiB takes 5 ms, and a text has room for ten thousand patterns.
const MAX_COMPILED_BYTES: usize = 16 << 20;

/// What all templates of one text may fill in to: a text has room for ten thousand services of one large template.
const MAX_FILLED_BYTES: usize = 16 << 20;

pub(super) struct Problems<'t> {
    text: &'t str,
    is_templated: OnceCell<bool>,
    found: Vec<(Range<usize>, Problem)>,
    /// Found and not listed.
    unlisted: usize,
    /// The service that is being read.
    service: Option<String>,
    /// Set once the text has turned out not to be TOML.
    torn: Option<Torn>,
    /// Takes what is not listed.
    sink: Problem,
    /// By the patterns of the text, see [`Self::afford`].
    spent: usize,
    /// By templates that were filled in, see [`Self::afford_filling`].
    filled: usize,
    /// Where the templates of other files begin: what is wrong there is told at the service's `template`.
    borrowed_from: usize,
    template_place: Range<usize>,
}

/// Where a text is not TOML.
struct Torn {
    lines: Vec<Range<usize>>,
    silent_from: usize,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let sink = Problem::new(code::TOO_MANY_PROBLEMS, String::new());
        Self {
            text,
            is_templated: OnceCell::new(),
            found: Vec::new(),
            unlisted: 0,
            service: None,
            torn: None,
            sink,
            spent: 0,
            filled: 0,
            borrowed_from: compose::end_of_own(text),
            template_place: 0..0,
        }
    }

    /// For what is not told as it is, see [`Self::adopt`].
    pub(super) fn aside(&self) -> Self {
        Self { spent: self.spent, borrowed_from: usize::MAX, ..Self::new(self.text) }
    }

    /// Tells what was found aside and is kept.
    pub(super) fn adopt(&mut self, aside: Self, keep: impl Fn(&Range<usize>, &str) -> bool) {
        self.spent = aside.spent;
        for (place, problem) in aside.found {
            if keep(&place, &problem.code) {
                let help = problem.help;
                self.add(place, &problem.code, problem.message).help_with(|| help);
            }
        }
    }

    /// From now on problems of templates of other files stand at this place.
    pub(super) fn enter_template(&mut self, place: Range<usize>) {
        self.template_place = place;
    }

    /// A place that its owner can see.
    pub(super) fn visible(&self, place: Range<usize>) -> Range<usize> {
        if place.start < self.borrowed_from { place } else { self.template_place.clone() }
    }

    /// Takes `bytes` from what the templates of the text may fill in to; false once that is used up.
    pub(super) fn afford_filling(&mut self, bytes: usize) -> bool {
        self.filled = self.filled.saturating_add(bytes);
        self.filled <= MAX_FILLED_BYTES
    }

    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// Whether anything in the text may be filled in; looked for once, not once for each service.
    pub(super) fn text_is_templated(&self) -> bool {
        *self.is_templated.get_or_init(|| is_templated(self.text))
    }

    pub(super) fn count(&self) -> usize {
        self.found.len() + self.unlisted
    }

    /// From now on problems are about the service of this name.
    pub(super) fn enter_service(&mut self, name: &str) {
        self.service = Some(super::diagnostic::escape(name));
    }

    pub(super) fn leave_service(&mut self) {
        self.service = None;
        self.template_place = 0..0;
    }

    /// From now on nothing is said about a line that already has a problem, about what stands from
    /// `silent_from` on, nor about what is missing: all of that may only repeat an error of syntax.
    pub(super) fn text_is_torn(&mut self, silent_from: usize) {
        let lines = self.found.iter().map(|(place, _)| line_around(self.text, place.start)).collect();
        self.torn = Some(Torn { lines, silent_from });
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    /// Takes `bytes` from what the patterns of the text may compile to; false once that is used up.
    pub(super) fn afford(&mut self, bytes: usize) -> bool {
        self.spent = self.spent.saturating_add(bytes);
        self.spent <= MAX_COMPILED_BYTES
    }

    fn only_repeats(&self, place: &Range<usize>, code: &str) -> bool {
        let Some(torn) = &self.torn else { return false };
        // The parser stands in an empty value at 0 for one that it could not read.
        let is_made_up = *place == (0..0);
        let is_on_torn_line =
            torn.lines.iter().any(|line| line.start <= place.end && place.start <= line.end);
        is_made_up || code == code::MISSING_KEY || place.start >= torn.silent_from || is_on_torn_line
    }

    /// Adds a problem that makes the file invalid; help may be given to what is returned.
    pub(super) fn add(&mut self, place: Range<usize>, code: &str, message: impl Into<String>) -> Helped<'_> {
        let place = self.visible(place);
        if self.only_repeats(&place, code) {
            return Helped { problem: &mut self.sink, is_listed: false };
        }
        if self.found.len() == MAX_LISTED {
            self.unlisted += 1;
            return Helped { problem: &mut self.sink, is_listed: false };
        }
        let mut problem = Problem::new(code, message);
        problem.service.clone_from(&self.service);
        self.found.push((place, problem));
        let (_, problem) = self.found.last_mut().expect("a problem was pushed above");
        Helped { problem, is_listed: true }
    }

    /// The problems in the order of the text.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        if self.found.is_empty() {
            return Vec::new();
        }
        self.found.sort_by_key(|(place, _)| place.start);
        let mut lines = Lines::new(self.text);
        let mut listed: Vec<Problem> =
            self.found.into_iter().map(|(place, problem)| problem.at(lines.locate(place))).collect();
        if self.unlisted > 0 {
            let message = format!("{} more problems are not listed", self.unlisted);
            listed.push(Problem::new(code::TOO_MANY_PROBLEMS, message));
        }
        listed
    }
}

/// A problem just added.
pub(super) struct Helped<'p> {
    problem: &'p mut Problem,
    is_listed: bool,
}

impl Helped<'_> {
    pub(super) fn help(self, help: impl Into<String>) {
        self.problem.help = Some(help.into());
    }

    /// Of help that takes a search: made for what is listed alone, or a hostile text has a million made.
    pub(super) fn help_with(self, help: impl FnOnce() -> Option<String>) {
        if self.is_listed {
            self.problem.help = help();
        }
    }
}
