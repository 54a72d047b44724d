//! The `reconcile` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    reconcile::commands::main()
}
