//! What a run may use in all: files of its cgroup, where the controllers for them are to be had.
//!
//! A controller is enabled from the top of what we were given downwards, in cgroups that have no processes of their own;
//! where that is refused, the limit is not enforced, and whoever asked is told why. Written by the keeper before anything
//! is executed, and again by the reconciler, which finds out by that what holds, and changes it while the run goes on.
//! Source: Documentation/admin-guide/cgroup-v2.rst on `cgroup.controllers`, `cgroup.subtree_control`, "No Internal
//! Process Constraint", `memory.max`, `cpu.max` and `pids.max`.

use std::fs;
use std::io;
use std::path::Path;

use super::{is_gone, name, write};
use crate::host::CgroupLimits;
use crate::host::cause::plain;

/// In microseconds: what a quota of `cpu.max` is of, the kernel's default.
const PERIOD_US: u64 = 100_000;

/// A limit, its controller, its file, and what is to stand there.
struct Limit {
    field: &'static str,
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// Every limit; what is not given is no limit.
fn all(limits: &CgroupLimits) -> [(bool, Limit); 3] {
    let number = |value: Option<u64>| {
        value.filter(|value| *value != u64::MAX).map_or_else(|| "max".to_owned(), |value| value.to_string())
    };
    // The kernel rounds down to whole pages, and what is read back is to be what was written.
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4_096) as u64;
    let memory = limits.memory_max.map(|bytes| if bytes == u64::MAX { bytes } else { bytes / page * page });
    let quota = limits.cpu_max.map(|thousandths| u64::from(thousandths) * PERIOD_US / 1_000);
    let limit = |field, controller, file, value| Limit { field, controller, file, value };
    [
        (limits.memory_max.is_some(), limit("memory_max", "memory", "memory.max", number(memory))),
        (
            limits.cpu_max.is_some(),
            limit("cpu_max", "cpu", "cpu.max", format!("{} {PERIOD_US}", number(quota))),
        ),
        (limits.pids_max.is_some(), limit("pids_max", "pids", "pids.max", number(limits.pids_max))),
    ]
}

/// Has these limits hold for the cgroup of a run; the answer names each that does not, and why.
/// What is not given any more is lifted.
pub fn put(group: &Path, limits: &CgroupLimits) -> Vec<String> {
    let mut not_enforced = Vec::new();
    for (is_given, limit) in all(limits) {
        let put = match is_given {
            true => enable_above(group, limit.controller).and_then(|()| set(group, &limit)),
            false if group.join(limit.file).exists() => set(group, &limit),
            // Nothing was ever limited.
            false => Ok(()),
        };
        if let Err(why) = put {
            not_enforced.push(format!("{}: {why}", limit.field));
        }
    }
    not_enforced
}

/// Which of these limits do not hold for the cgroup of a run, as far as its files tell: for who changes nothing.
pub fn missing(group: &Path, limits: &CgroupLimits) -> Vec<String> {
    let given = all(limits).into_iter().filter(|(is_given, _)| *is_given);
    let why = given.filter_map(|(_, limit)| {
        let path = group.join(limit.file);
        match fs::read_to_string(&path) {
            Ok(now) if now.trim_end() == limit.value => None,
            Ok(now) => Some(format!("{}: {} says {}", limit.field, path.display(), now.trim_end())),
            Err(error) if is_gone(&error) => Some(format!(
                "{}: the {} controller is not in {}",
                limit.field,
                limit.controller,
                group.display()
            )),
            Err(error) => Some(format!("{}: {}: {}", limit.field, path.display(), plain(&error))),
        }
    });
    why.collect()
}

/// Why these limits would not hold for a run below `base`.
pub fn unenforceable(base: &Path, limits: &CgroupLimits) -> Option<String> {
    let run = base.join("run");
    all(limits).into_iter().filter(|(is_given, _)| *is_given).find_map(|(_, limit)| {
        let why = enable_above(&run, limit.controller).err()?;
        Some(format!("{}: {why}", limit.field))
    })
}

fn set(group: &Path, limit: &Limit) -> Result<(), String> {
    let path = group.join(limit.file);
    let failed = |error: &io::Error| format!("{}: {}", path.display(), plain(error));
    let now = match fs::read_to_string(&path) {
        Ok(now) => now,
        Err(error) if is_gone(&error) => return Err(format!("there is no {}", path.display())),
        Err(error) => return Err(failed(&error)),
    };
    if now.trim_end() == limit.value {
        return Ok(());
    }
    write(&path, &limit.value).map_err(|error| failed(&error))
}

/// Enables a controller for the children of each cgroup between the top and the one that the run is in.
fn enable_above(group: &Path, controller: &str) -> Result<(), String> {
    // The top, the directory of all instances, and that of ours.
    let mut above: Vec<&Path> = group.ancestors().skip(1).take(3).collect();
    above.reverse();
    if above.get(1).is_none_or(|dir| dir.file_name() != Some(name::ROOT.as_ref())) {
        return Err(format!("{} is not where runs are", group.display()));
    }
    above.into_iter().try_for_each(|dir| enable(dir, controller))
}

fn enable(dir: &Path, controller: &str) -> Result<(), String> {
    let has = |file: &str| -> Result<bool, String> {
        let path = dir.join(file);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {}", path.display(), plain(&error)))?;
        Ok(text.split_ascii_whitespace().any(|word| word == controller))
    };
    if has("cgroup.subtree_control")? {
        return Ok(());
    }
    if !has("cgroup.controllers")? {
        return Err(format!("the {controller} controller is not available in {}", dir.display()));
    }
    let path = dir.join("cgroup.subtree_control");
    write(&path, &format!("+{controller}")).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => {
            format!(
                "the {controller} controller cannot be enabled: {} has processes of its own",
                dir.display()
            )
        }
        _ => format!("the {controller} controller cannot be enabled: {}: {}", path.display(), plain(&error)),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Directories with the files that the kernel would make, below a top with these controllers.
    struct Tree {
        top: tempfile::TempDir,
    }

    impl Tree {
        fn new(controllers: &str) -> Self {
            let tree = Self { top: tempfile::tempdir().unwrap() };
            for dir in [tree.top.path(), &tree.base().join(".."), &tree.base(), &tree.run()] {
                fs::create_dir_all(dir).unwrap();
                fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
                fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
            }
            tree
        }

        fn base(&self) -> PathBuf {
            self.top.path().join("reconcile/0011")
        }

        fn run(&self) -> PathBuf {
            self.base().join("default.web.1")
        }

        /// As the kernel makes them once a controller is enabled above.
        fn files(&self) {
            for (file, text) in [("memory.max", "max\n"), ("cpu.max", "max 100000\n"), ("pids.max", "max\n")]
            {
                fs::write(self.run().join(file), text).unwrap();
            }
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.run().join(file)).unwrap()
        }
    }

    const ALL: CgroupLimits =
        CgroupLimits { memory_max: Some(256 << 20), cpu_max: Some(1_500), pids_max: Some(64) };

    #[test]
    fn limits_stand_in_the_files_as_the_kernel_takes_them_and_are_lifted_again() {
        let tree = Tree::new("cpuset cpu io memory pids\n");
        tree.files();
        assert_eq!(put(&tree.run(), &ALL), [""; 0]);
        // A file of the kernel's takes each write as one; this one keeps what was there behind it.
        assert!(tree.read("memory.max").starts_with("268435456"));
        assert!(tree.read("cpu.max").starts_with("150000 100000"));
        assert!(tree.read("pids.max").starts_with("64"));
        let enabled = |dir: PathBuf| fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
        for dir in [tree.top.path().to_owned(), tree.base().join(".."), tree.base()] {
            assert!(enabled(dir).contains("+pids"));
        }
        assert_eq!(enabled(tree.run()), "", "a run has processes, and gives nothing on");
        tree.files();
        fs::write(tree.run().join("pids.max"), "64\n").unwrap();
        assert_eq!(put(&tree.run(), &CgroupLimits::default()), [""; 0]);
        assert!(tree.read("pids.max").starts_with("max"));
    }

    #[test]
    fn unlimited_is_the_kernels_word_for_it() {
        let tree = Tree::new("cpu memory pids");
        tree.files();
        fs::write(tree.run().join("memory.max"), "4096\n").unwrap();
        let limits = CgroupLimits { memory_max: Some(u64::MAX), ..CgroupLimits::default() };
        assert_eq!(put(&tree.run(), &limits), [""; 0]);
        assert!(tree.read("memory.max").starts_with("max"));
    }

    #[test]
    fn a_controller_that_is_not_there_is_named() {
        let tree = Tree::new("cpu");
        let top = tree.top.path().display();
        let why = put(&tree.run(), &CgroupLimits { memory_max: Some(4_096), ..CgroupLimits::default() });
        assert_eq!(why, [format!("memory_max: the memory controller is not available in {top}")]);
        let why = unenforceable(&tree.base(), &ALL).unwrap();
        assert_eq!(why, format!("memory_max: the memory controller is not available in {top}"));
        assert_eq!(put(&tree.run(), &CgroupLimits::default()), [""; 0], "nothing was asked for");
    }

    #[test]
    fn who_only_looks_is_told_what_does_not_hold_and_writes_nothing() {
        let tree = Tree::new("cpu memory pids");
        assert_eq!(missing(&tree.run(), &ALL).len(), 3);
        tree.files();
        let limits = CgroupLimits { pids_max: Some(64), ..CgroupLimits::default() };
        let file = tree.run().join("pids.max");
        assert_eq!(missing(&tree.run(), &limits), [format!("pids_max: {} says max", file.display())]);
        fs::write(&file, "64\n").unwrap();
        assert_eq!(missing(&tree.run(), &limits), [""; 0]);
    }

    #[test]
    fn nothing_is_written_outside_of_where_runs_are() {
        let other = tempfile::tempdir().unwrap();
        let run = other.path().join("a/b/c");
        fs::create_dir_all(&run).unwrap();
        let limits = CgroupLimits { pids_max: Some(1), ..CgroupLimits::default() };
        assert_eq!(put(&run, &limits), [format!("pids_max: {} is not where runs are", run.display())]);
    }
}
