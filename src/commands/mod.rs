//! The command line: one file a command. Joins `reconciler`, `host` and `api`.
