//! Small disks that fill up or become read-only.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs the test on a tmpfs with these options, in a mount namespace that ends with the test's thread. Without
/// the right to mount, says so and does nothing.
pub fn on_small_disk(options: &str, test: impl FnOnce(&Path) + Send) {
    let options = format!("{options},mode=0700");
    std::thread::scope(|scope| {
        let tested = scope.spawn(move || {
            match unshare(CloneFlags::CLONE_NEWNS) {
                Err(Errno::EPERM) => return eprintln!("skipped: mounting a small disk needs root"),
                result => result.expect("a mount namespace of its own"),
            }
            let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
            mount(none, "/", none, private, none).expect("no mount of ours gets out");
            let dir = tempfile::tempdir().unwrap();
            mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                .expect("a tmpfs");
            test(dir.path());
            nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).expect("unmount the tmpfs");
        });
        tested.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
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
