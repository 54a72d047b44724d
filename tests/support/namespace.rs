//! The world's binary in namespaces of its own, by unshare(1).

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::World;

/// The command as the first process of a pid namespace that ends with it; `None`, with a message, where none can be made.
pub fn pid(world: &World) -> Option<Command> {
    inside(world, &["-pf", "--mount-proc", "--kill-child"])
}

/// The command in the namespaces that these options of unshare(1) make; a program may follow them, which is to start it.
pub fn inside(world: &World, options: &[&str]) -> Option<Command> {
    let mut probe = Command::new("unshare");
    let own = options.iter().take_while(|option| option.starts_with('-'));
    let can = probe.args(own).arg("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces by `unshare {}`", options.join(" "));
        return None;
    }
    Some(world.behind("unshare", options))
}

/// The first process of the namespace whose unshare(1) this is, as pid of ours.
pub fn first_process(unshare: &Child) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pid = unshare.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(first) = children.split_whitespace().next() {
            return first.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "unshare does not start anything");
        std::thread::sleep(Duration::from_millis(5));
    }
}
