//! The same work over many things, divided over the cores of the machine.
//!
//! For commands that look and end: a thousand small files of `/proc`, each read by itself, are much of a `status`.
//! Not for what lives long and shall be small: every thread has an arena of the allocator's, which outlives it.
//! Threads that cannot be had are done without. Called by `usage`, and for `Looking` by `observe` and `looker`.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread::{self, ScopedJoinHandle};

/// Fewer are done sooner than a thread is there.
const LEAST: usize = 64;

/// Beyond this the kernel's own locks are what is waited for.
const MOST_THREADS: usize = 8;

/// Does both at once; one after the other where there is no thread to be had.
pub fn both<A: Send, B>(aside: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> (A, B) {
    let aside = Mutex::new(Some(aside));
    let do_aside = || {
        let aside = aside.lock().expect("nothing panics while it holds this lock").take();
        aside.expect("it is done once")()
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, do_aside) {
        Ok(other) => {
            let done = here();
            (joined(other), done)
        }
        Err(_) => (do_aside(), here()),
    })
}

fn joined<R>(other: ScopedJoinHandle<'_, R>) -> R {
    other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// On how many cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    One,
    All,
}

impl Over {
    /// What `each` makes of the items, in their order.
    pub fn map<T: Sync, R: Send>(self, items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
        let threads = match self {
            Self::One => 1,
            Self::All if items.len() < 2 * LEAST => 1,
            Self::All => thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS),
        };
        let mut parts = items.chunks(items.len().div_ceil(threads).max(LEAST));
        let do_part = &|part: &[T]| part.iter().map(&each).collect::<Vec<R>>();
        let own = parts.next().unwrap_or_default();
        thread::scope(|scope| {
            let others: Vec<_> = parts
                .map(|part| (part, thread::Builder::new().spawn_scoped(scope, move || do_part(part)).ok()))
                .collect();
            let mut done = do_part(own);
            for (part, other) in others {
                done.extend(match other {
                    Some(other) => joined(other),
                    None => do_part(part),
                });
            }
            done
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_done() {
        assert_eq!(both(|| 1, || 2), (1, 2));
    }

    #[test]
    fn each_is_done_once_and_in_order_on_however_many_cores() {
        for count in [0, 1, LEAST, 2 * LEAST, 2 * LEAST + 1, 100 * LEAST + 7] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| 2 * item).collect();
            for over in [Over::One, Over::All] {
                assert_eq!(over.map(&items, |item| 2 * item), doubled, "{count} over {over:?}");
            }
        }
    }
}
