//! What a pass costs when there is nothing to do: every event plans every service.
//!
//! Counted in allocations, which do not depend on what else the machine is doing. Measured beside it, with
//! `opt-level = 2` on two busy cores: 10,000 services of which one has changed are planned in 5 ms, a quarter
//! of it comparing names.

#![expect(unsafe_code, reason = "JUSTIFICATION: only a global allocator can count allocations")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[path = "plan/worlds.rs"]
#[expect(dead_code, reason = "shared with the properties, which use the rest")]
mod worlds;

use reconcile::identity::{Digest, Nonce};
use reconcile::manifest::Dependency;
use reconcile::plan::{Desired, Observed, Presence, Seen, Service, Want, plan};
use reconcile::state::{Entry, Reason, Run};

use worlds::{accepted, at, containment, exec, id, process, spec};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Two tests that counted at once would count each other.
static ALONE: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract; the counter
// does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, and so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: usize = 10_000;

/// Every service runs what is declared.
fn converged() -> (Desired, Observed) {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    for index in 0..SERVICES {
        let name = format!("project-{}/service-{index}", index % 40);
        let want = Want {
            accepted: Some(accepted(spec(&name), "v1:a")),
            refused: None,
            problems: Vec::new(),
            presence: Presence::Present,
            manifest: None,
            gate: None,
            files: None,
            retry: false,
        };
        let run = Run {
            nonce: Nonce::from_u64(index as u64),
            fingerprint: "v1:a".to_owned(),
            started_digest: Digest::of(b"a"),
            digest: Digest::of(b"a"),
            exec: exec(),
            why: Reason::New,
            intent_at: at(0),
            epoch: 1,
            beside: BTreeMap::new(),
            files: None,
            log: None,
            cwd: None,
            process: Some(process()),
            containment: Some(containment()),
            started_at: Some(at(0)),
            ready_at: Some(at(1_000)),
            stopping: None,
            end: None,
        };
        let entry = Entry { run: Some(run), ..Entry::default() };
        let service =
            Service { entry: entry.into(), seen: Seen::Alive, attached: true, ..Service::default() };
        desired.services.insert(id(&name), want);
        observed.services.insert(id(&name), service);
    }
    (desired, observed)
}

fn allocations_of(desired: &Desired, observed: &Observed) -> (usize, usize) {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let plan = plan(desired, observed, &at(60_000));
    (ALLOCATIONS.load(Ordering::Relaxed) - before, plan.steps.len())
}

#[test]
fn what_is_converged_costs_no_allocation_but_its_line_in_the_table_of_phases() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut desired, observed) = converged();
    let (allocations, steps) = allocations_of(&desired, &observed);
    assert_eq!(steps, 0);
    // The nodes of the table, which hold up to eleven lines each.
    assert!(allocations <= SERVICES / 5, "{allocations} allocations for {SERVICES} services");

    let changed = id("project-7/service-7");
    desired.services.get_mut(&changed).unwrap().accepted = Some(accepted(spec("web"), "v1:b"));
    let (with_a_change, steps) = allocations_of(&desired, &observed);
    assert_eq!(steps, 1);
    assert!(with_a_change <= allocations + 10, "{with_a_change} instead of {allocations} allocations");
}

/// A service of each project after the other: ten thousand of them in forty chains.
#[test]
fn a_chain_of_dependencies_costs_no_allocation_a_service() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut desired, observed) = converged();
    let (unlinked, _) = allocations_of(&desired, &observed);
    for index in 40..SERVICES {
        let name = |index: usize| id(&format!("project-{}/service-{index}", index % 40));
        let want = desired.services.get_mut(&name(index)).unwrap();
        let accepted = Arc::make_mut(want.accepted.as_mut().unwrap());
        accepted.spec.depends_on.insert(name(index - 40), Dependency::PLAIN);
    }
    let (linked, steps) = allocations_of(&desired, &observed);
    assert_eq!(steps, 0);
    assert!(linked <= unlinked + 200, "{linked} instead of {unlinked} allocations");
}
