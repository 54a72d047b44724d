//! What falls to the first process of a pid namespace, as the entry point of a container is.
//!
//! Orphans of the whole namespace come to it, and stay zombies until it reaps them; the kernel drops every signal
//! whose disposition it left at the default; and all other processes are killed when it ends. Elsewhere nothing in
//! here does anything. Called by `commands` around a command. Source: pid_namespaces(7).

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::proc;
use super::sys::{self, Wait, Whom};

/// Signals by which a command is asked to end, and of which it would end by itself.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Somebody else listens to the signals.
static HEARD_ELSEWHERE: AtomicBool = AtomicBool::new(false);

/// Children whose status somebody of ours waits for.
static AWAITED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// True if everything in this pid namespace ends with this process.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Lets signals end the first process as they end any other.
pub fn obey_signals() {
    if is_first() {
        ENDING.into_iter().for_each(|number| sys::handle_signal(number, obey));
    }
}

extern "C" fn obey(number: i32) {
    if !HEARD_ELSEWHERE.load(Ordering::Relaxed) {
        sys::exit_now(128 + number);
    }
}

/// From now on signals end nobody by themselves. Called once their new listener has them, which hands each on to us:
/// none is lost in between.
pub fn leave_signals_to_others() {
    HEARD_ELSEWHERE.store(true, Ordering::Relaxed);
}

/// A child that is somebody's to wait for, until this is dropped.
#[derive(Debug)]
pub struct Awaited(i32);

impl Awaited {
    /// On the thread of the runtime, before it does anything else: the child may have ended already.
    pub fn new(pid: i32) -> Self {
        AWAITED.lock().expect("nothing panics while it holds this lock").push(pid);
        Self(pid)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        AWAITED.lock().expect("nothing panics while it holds this lock").retain(|pid| *pid != self.0);
    }
}

/// The orphans that come to the first process.
#[derive(Debug)]
pub struct Orphans(Option<Signal>);

impl Orphans {
    /// On a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self(if is_first() { Some(signal(SignalKind::child())?) } else { None }))
    }

    /// Reaps what has ended, for ever. Cancel safe.
    pub async fn reap(mut self) {
        let Some(ended) = &mut self.0 else { return };
        loop {
            match proc::own_children() {
                Ok(children) => reap(&children),
                Err(error) => tracing::warn!(%error, "orphans cannot be reaped"),
            }
            ended.recv().await;
        }
    }
}

/// By name, for a wait for any would take the children of others from them.
fn reap(children: &[i32]) {
    let awaited = AWAITED.lock().expect("nothing panics while it holds this lock");
    for &pid in children.iter().filter(|pid| !awaited.contains(pid)) {
        // It may live.
        let _ = sys::wait(Whom::Pid(pid), Wait::Reap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_reaped_and_a_child_that_somebody_waits_for_is_left_to_them() {
        let has_ended = |pid: i32| sys::wait(Whom::Pid(pid), Wait::Peek).unwrap().is_some();
        let start = || std::process::Command::new("/bin/true").spawn().unwrap().id() as i32;
        let (kept, orphan) = (start(), start());
        let awaited = Awaited::new(kept);
        while !has_ended(kept) || !has_ended(orphan) {
            std::thread::yield_now();
        }
        assert!([kept, orphan].iter().all(|pid| proc::own_children().unwrap().contains(pid)));
        reap(&[kept, orphan]);
        assert_eq!(sys::wait(Whom::Pid(orphan), Wait::Peek).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert!(has_ended(kept));
        drop(awaited);
        reap(&[kept]);
        assert!(sys::wait(Whom::Pid(kept), Wait::Peek).is_err());
    }
}
