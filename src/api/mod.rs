//! The control socket: commands in, the published status out. Never called by `reconciler`.
