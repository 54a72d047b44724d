//! What the program may do: its limits and its user.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{self, Gid, Uid};

use super::{Birth, Step, at};
use crate::host::keeper::protocol::Spawn;
use crate::state::{SpawnFailure, SpawnStage};

/// What only the keeper's user may do: raising limits, a lower nice or OOM score.
pub(super) fn privileged_limits(birth: &Birth<'_>) -> Step {
    let request = birth.request;
    let (soft, hard) = birth.nofile;
    setrlimit(Resource::RLIMIT_NOFILE, soft as rlim_t, hard as rlim_t)
        .map_err(at(SpawnStage::Limits, "restore the limit of open files"))?;
    for &(which, value) in &request.rlimits {
        let resource = resource(which)?;
        let (_, hard) =
            getrlimit(resource).map_err(at(SpawnStage::Limits, format_args!("read {resource:?}")))?;
        if value > hard {
            set_limit(resource, value)?;
        }
    }
    if let Some(nice) = request.nice {
        rustix::process::setpriority_process(None, nice)
            .map_err(at(SpawnStage::Limits, format_args!("set nice to {nice}")))?;
    }
    if let Some(score) = request.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(at(SpawnStage::Limits, format_args!("set oom_score_adj to {score}")))?;
    }
    Ok(())
}

/// The limits as asked for, at the last moment: a small one must not hinder what comes before.
pub(super) fn final_limits(request: &Spawn) -> Step {
    request.rlimits.iter().try_for_each(|&(which, value)| set_limit(resource(which)?, value))
}

fn set_limit(resource: Resource, value: u64) -> Step {
    setrlimit(resource, value as rlim_t, value as rlim_t)
        .map_err(at(SpawnStage::Limits, format_args!("set {resource:?} to {value}")))
}

fn resource(which: u32) -> Step<Resource> {
    let known = [
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_CPU,
    ];
    known.into_iter().find(|resource| *resource as u32 == which).ok_or_else(|| SpawnFailure {
        stage: SpawnStage::Limits,
        errno: 0,
        message: format!("there is no limit of number {which}"),
    })
}

pub(super) fn switch_user(request: &Spawn) -> Step {
    let Some(user) = &request.user else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if !Uid::effective().is_root() && (uid, gid) == (Uid::effective(), Gid::effective()) {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    unistd::setgroups(&groups)
        .and_then(|()| unistd::setresgid(gid, gid, gid))
        .and_then(|()| unistd::setresuid(uid, uid, uid))
        .map_err(at(SpawnStage::User, format_args!("become user {}", user.name)))
}
