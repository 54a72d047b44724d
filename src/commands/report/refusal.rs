//! Why nothing was done, and what to do.

use super::escape::{visible, visible_line};
use super::style::{BAD, STRONG, paint};
use crate::reconciler::command::Refusal;

/// Without a line end.
pub fn refusal(refusal: &Refusal) -> String {
    let mut text = format!("{}: {}", paint(BAD, "refused"), visible(&refusal.message));
    if let Some(help) = &refusal.help {
        let lines: Vec<_> = help.lines().map(visible_line).collect();
        text.push_str(&format!("\n{}: {}", paint(STRONG, "help"), lines.join("\n  ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_cannot_act_on_the_terminal() {
        let text = refusal(&Refusal {
            code: "failed".into(),
            message: "web is parked\u{1b}[2J".into(),
            help: Some("`reconcile reset web`".into()),
        });
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "refused: web is parked\\x1b[2J\nhelp: `reconcile reset web`");
    }
}
