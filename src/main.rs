
            reconcile::host::keeper::main(std::path::Path::new(dir))
        [command, flag, dir] if command == "keeper" && flag == "--state-dir" => {
        _ => ExitCode::from(64),
        }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.as_slice() {
    reconcile::commands::main()
    }
//! The `reconcile` binary; everything is in the library.
//! The program. The keeper starts here before anything could start a thread.
fn main() -> ExitCode {
fn main() -> std::process::ExitCode {
use std::process::ExitCode;
}
