//! A reconciler over the modelled machine: hours of crashes, edits and deaths under virtual time.
//!
//! What must never happen (a second leader, a stranger signalled, a start without its intent, an orphan)
//! ends any of these tests by itself: see `reconcile::host::fake`.

mod chaos;
mod commanded;
mod deaths;
mod demand;
mod dependencies;
mod edits;
mod faults;
mod files;
mod guards;
mod health;
mod leases;
mod limits;
mod operator;
mod policy;
mod ports;
mod removals;
mod restarts;
mod rig;
mod sockets;
mod templates;
mod ttl;
