//! Limits of what a service may use in all: put, changed while it runs, and told where they do not hold.

use reconcile::host::CgroupLimits;
use reconcile::host::fake::FakeHost;
use reconcile::plan::Phase;

use crate::rig::{Rig, secs};

fn drift(rig: &Rig) -> String {
    format!("{:?}", rig.status("web").unwrap().drift)
}

#[test]
fn limits_are_changed_and_lifted_while_it_runs() {
    let host = FakeHost::new();
    host.enforce_limits();
    let mut rig = Rig::over(host);
    rig.declare("web", "limits = { memory_max = '64MiB', pids_max = 64 }");
    rig.run_until_phase("web", Phase::Running);
    let pid = rig.pid("web");
    let given = CgroupLimits { memory_max: Some(64 << 20), cpu_max: None, pids_max: Some(64) };
    assert_eq!(rig.host.limits_of("web"), Some(given));
    rig.assert_idle_for(secs(600));
    rig.declare("web", "limits = { memory_max = '128MiB', cpu_max = 1.5 }");
    let given = CgroupLimits { memory_max: Some(128 << 20), cpu_max: Some(1_500), pids_max: None };
    rig.run_until("they are others", |rig| rig.host.limits_of("web") == Some(given.clone()));
    rig.declare("web", "");
    rig.run_until("they are lifted", |rig| rig.host.limits_of("web") == Some(CgroupLimits::default()));
    rig.assert_idle_for(secs(600));
    assert_eq!(rig.pid("web"), pid);
}

#[test]
fn where_they_do_not_hold_it_runs_and_says_so() {
    let mut rig = Rig::with("web", "limits.memory_max = '64MiB'");
    rig.run_until_phase("web", Phase::Running);
    assert!(drift(&rig).contains("limits-not-enforced"), "{}", drift(&rig));
    let pid = rig.pid("web");
    rig.declare("web", "");
    rig.run_until("it is shown no more", |rig| !drift(rig).contains("limits-not-enforced"));
    assert_eq!(rig.pid("web"), pid);
}

#[test]
fn where_they_are_required_and_do_not_hold_it_is_not_started() {
    let mut rig = Rig::under(FakeHost::new(), "[policy]\nrequire = ['limits']");
    rig.declare("web", "limits.memory_max = '64MiB'");
    rig.declare("db", "limits.nofile = 64");
    rig.run_until_phase("web", Phase::Pending);
    assert_eq!(rig.reason("web"), "limits-not-enforced");
    rig.run_until_phase("db", Phase::Running);
    rig.host.enforce_limits();
    rig.run_until_phase("web", Phase::Running);
}
