//! The loop: waits for something to happen, makes a pass, carries out its plan, publishes the status.
//!
//! Joins `host` and `plan`. It decides nothing: what to do is in `plan`, how it is done is in `host`.

pub mod command;
pub mod inbox;
pub mod options;
pub mod selection;
pub mod status;
