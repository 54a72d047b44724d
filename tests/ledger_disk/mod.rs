//! Small disks that fill up, become read-only, or go away.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs the test, and whatever it starts, in a mount namespace that ends with it. Without the right to mount, says so
/// and does nothing.
pub fn in_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let tested = scope.spawn(move || {
            match unshare(CloneFlags::CLONE_NEWNS) {
                Err(Errno::EPERM) => return eprintln!("skipped: mounting a small disk needs root"),
                result => result.expect("a mount namespace of its own"),
            }
            let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, private, none).expect("no mount of ours gets out");
            test();
        });
        tested.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs the test on a tmpfs with these options, in a mount namespace of its own.
pub fn on_small_disk(options: &str, test: impl FnOnce(&Path) + Send) {
    in_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        mount_small(dir.path(), options);
        test(dir.path());
        unmount(dir.path());
    });
}

/// A tmpfs over the directory.
pub fn mount_small(dir: &Path, options: &str) {
    let options = format!("{options},mode=0700");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("a tmpfs");
}

/// Also of what is in use.
pub fn unmount(dir: &Path) {
    nix::mount::umount2(dir, nix::mount::MntFlags::MNT_DETACH).expect("unmount the tmpfs");
}

pub fn remount_read_only(disk: &Path) {
    remount(disk, MsFlags::MS_RDONLY);
}

pub fn remount_writable(disk: &Path) {
    remount(disk, MsFlags::empty());
}

fn remount(disk: &Path, how: MsFlags) {
    let none = None::<&str>;
    mount(none, disk, none, MsFlags::MS_REMOUNT | how, none).expect("remount the tmpfs");
}
