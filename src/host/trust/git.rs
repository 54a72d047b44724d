//! Git worktrees, read from their files: git itself is not asked.
//!
//! A `.git` directory, or a `.git` file whose git directory names the worktree back: anybody can write a
//! file that points to somebody's repository. Source: gitrepository-layout(5).

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::host::resolve::open_regular;

/// Larger pointer and configuration files are nobody's.
const MAX_BYTES: u64 = 64 * 1024;

/// True for the top of a repository, of a linked worktree or of a submodule; not for what lies below.
pub fn is_git_worktree(path: &Path) -> bool {
    let Ok(top) = std::fs::canonicalize(path) else { return false };
    let dot_git = top.join(".git");
    if dot_git.is_dir() {
        return is_git_directory(&dot_git);
    }
    let Some(pointer) = read_line(&dot_git, "gitdir:") else { return false };
    let Ok(git_dir) = std::fs::canonicalize(top.join(pointer)) else { return false };
    is_git_directory(&git_dir) && (is_worktree_of(&git_dir, &dot_git) || is_submodule_of(&git_dir, &top))
}

/// The lock that git holds while it changes the worktree that `path` is in. The path need not be there: what is above
/// it is asked.
pub fn checkout_in_progress(path: &Path) -> Option<PathBuf> {
    let dot_git = path.ancestors().map(|above| above.join(".git")).find(|dot_git| dot_git.exists())?;
    let git_dir =
        if dot_git.is_dir() { dot_git } else { dot_git.parent()?.join(read_line(&dot_git, "gitdir:")?) };
    let lock = git_dir.join("index.lock");
    std::fs::symlink_metadata(&lock).is_ok().then_some(lock)
}

/// It has a HEAD, and its objects and refs, where they are shared in the common directory.
fn is_git_directory(dir: &Path) -> bool {
    let common = match read_line(&dir.join("commondir"), "") {
        Some(common) => dir.join(common),
        None => dir.to_owned(),
    };
    dir.join("HEAD").is_file() && common.join("objects").is_dir() && common.join("refs").is_dir()
}

/// `git worktree add` writes the worktree's `.git` file into `gitdir`.
fn is_worktree_of(git_dir: &Path, dot_git: &Path) -> bool {
    let Some(back) = read_line(&git_dir.join("gitdir"), "") else { return false };
    std::fs::canonicalize(git_dir.join(back)).is_ok_and(|back| back == dot_git)
}

/// A submodule's git directory has `core.worktree` in its configuration.
fn is_submodule_of(git_dir: &Path, top: &Path) -> bool {
    let Some(config) = read_small(&git_dir.join("config")) else { return false };
    let worktree = config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "worktree").then(|| PathBuf::from(value.trim()))
    });
    worktree.is_some_and(|back| std::fs::canonicalize(git_dir.join(back)).is_ok_and(|back| back == top))
}

/// The first line, after `prefix`.
fn read_line(path: &Path, prefix: &str) -> Option<PathBuf> {
    let text = read_small(path)?;
    let line = text.lines().next()?.strip_prefix(prefix)?.trim();
    (!line.is_empty()).then(|| PathBuf::from(line))
}

fn read_small(path: &Path) -> Option<String> {
    let mut text = String::new();
    open_regular(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
