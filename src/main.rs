//! The program. The keeper starts here before anything could start a thread.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.as_slice() {
        [command, flag, dir] if command == "keeper" && flag == "--state-dir" => {
            reconcile::host::keeper::main(std::path::Path::new(dir))
        }
        _ => ExitCode::from(64),
    }
}
