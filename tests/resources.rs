//! A machine that is out of something: descriptors, processes, memory, disk, watches, or a file system that answers.
//!
//! None of it is the service's failure, and none of it delays another service. Once it is back, everything converges
//! by itself. Limits are those of processes that the test starts, or of namespaces of its own; the one sysctl that is
//! lowered is put back, also when a test fails.

#![allow(clippy::disallowed_methods, reason = "tests of real processes touch the world")]

mod ledger_disk;
mod support;

#[path = "resources/disk.rs"]
mod disk;
#[path = "resources/processes.rs"]
mod processes;
#[path = "resources/watches.rs"]
mod watches;
