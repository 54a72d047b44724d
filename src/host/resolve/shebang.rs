//! What a `#!` line executes. Pure.
//!
//! Follows `load_script` of Linux (fs/binfmt_script.c) byte for byte, and env(1) of coreutils as far as a
//! policy can vouch for what it will run; anything else is refused with words.

/// How much of a file the kernel looks at.
pub(super) const HEAD_BYTES: usize = 256;

/// The kernel takes it for a part of the name.
const WINDOWS: &str = "its `#!` line ends with a carriage return: the file has Windows line ends";

/// The first line of a file, as the kernel reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shebang {
    /// Not a script.
    None,
    Interpreter {
        /// As written: absolute, or relative to the working directory.
        path: String,
        /// All the rest of the line is one argument.
        argument: Option<String>,
    },
    /// The kernel refuses it; what is wrong with it.
    Malformed(&'static str),
}

/// Parses the first bytes of a file; fewer than [`HEAD_BYTES`] mean that there are no more.
pub(super) fn parse(head: &[u8]) -> Shebang {
    let Some(line) = head.strip_prefix(b"#!") else { return Shebang::None };
    let (line, is_cut) = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&line[..end], false),
        // The last byte of a line that is cut does not count.
        None if head.len() >= HEAD_BYTES => (&head[2..HEAD_BYTES - 1], true),
        None => (line, false),
    };
    let is_gap = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !is_gap(byte)).unwrap_or(line.len());
    let line = &line[start..];
    let end = line.iter().position(|byte| is_gap(byte) || *byte == 0);
    if end.is_none() && is_cut {
        return Shebang::Malformed("its `#!` line is longer than the kernel reads");
    }
    let (path, rest) = line.split_at(end.unwrap_or(line.len()));
    if path.is_empty() {
        return Shebang::Malformed("its `#!` line names no interpreter");
    }
    let rest = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    if path.ends_with(b"\r") {
        return Shebang::Malformed(WINDOWS);
    }
    match (std::str::from_utf8(path), std::str::from_utf8(rest)) {
        (Ok(path), Ok(rest)) => {
            let rest = rest.trim_matches([' ', '\t']);
            let argument = (!rest.is_empty()).then(|| rest.to_owned());
            Shebang::Interpreter { path: path.to_owned(), argument }
        }
        _ => Shebang::Malformed("its `#!` line is not UTF-8"),
    }
}

/// True for the interpreters that look the real one up.
pub(super) fn is_env(interpreter: &str) -> bool {
    matches!(interpreter, "/usr/bin/env" | "/bin/env")
}

/// The program that env(1) runs, given the one argument of a `#!` line. `Err` is what is wrong.
pub(super) fn program_of_env(argument: Option<&str>) -> Result<String, &'static str> {
    const UNCLEAR: &str = "its `#!` line has options of env which leave open what it runs";
    let argument = argument.ok_or("its `#!` line has env run nothing")?;
    if argument.ends_with('\r') {
        return Err(WINDOWS);
    }
    let Some(text) = split_string(argument) else {
        // Without -S the whole argument is one word.
        return if argument.starts_with('-') || argument.contains('=') {
            Err(UNCLEAR)
        } else {
            Ok(argument.to_owned())
        };
    };
    if text.contains(['$', '\\', '#']) {
        return Err(UNCLEAR);
    }
    let mut words = shell_words::split(text).map_err(|_| UNCLEAR)?.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => return words.next().ok_or(UNCLEAR),
            "-v" | "--debug" => {}
            // Without PATH it would look elsewhere; so would it with another one.
            _ if word.starts_with("PATH=") => return Err(UNCLEAR),
            "-u" | "--unset" => {
                if words.next().is_none_or(|name| name == "PATH") {
                    return Err(UNCLEAR);
                }
            }
            _ if word.starts_with('-') => return Err(UNCLEAR),
            _ if word.contains('=') => {}
            _ => return Ok(word),
        }
    }
    Err("its `#!` line has env run nothing")
}

/// What follows `-S`, `-vS` or `--split-string`.
fn split_string(argument: &str) -> Option<&str> {
    let after = ["-S", "-vS", "--split-string="].iter().find_map(|option| argument.strip_prefix(option));
    after.or_else(|| argument.strip_prefix("--split-string ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(path: &str, argument: Option<&str>) -> Shebang {
        Shebang::Interpreter { path: path.to_owned(), argument: argument.map(str::to_owned) }
    }

    #[test]
    fn the_line_is_read_as_the_kernel_reads_it() {
        for (head, expected) in [
            ("\x7fELF", Shebang::None),
            ("", Shebang::None),
            ("#", Shebang::None),
            ("#!/bin/sh\n", interpreter("/bin/sh", None)),
            ("#!/bin/sh", interpreter("/bin/sh", None)),
            ("#! \t/bin/sh  -e \t\nrest", interpreter("/bin/sh", Some("-e"))),
            ("#!/usr/bin/env -S node --x y\n", interpreter("/usr/bin/env", Some("-S node --x y"))),
            ("#!/bin/sh\0 x\n", interpreter("/bin/sh", None)),
            ("#!bin/tool\n", interpreter("bin/tool", None)),
        ] {
            assert_eq!(parse(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_malformed() {
        let long = format!("#!/{}", "x".repeat(HEAD_BYTES));
        for head in [&b"#!\n"[..], b"#!", b"#!   \n", b"#!/bin/sh\r\n", b"#!/\xff\n"] {
            assert!(matches!(parse(head), Shebang::Malformed(_)), "{}", head.escape_ascii());
        }
        assert!(matches!(parse(&long.as_bytes()[..HEAD_BYTES]), Shebang::Malformed(_)));
    }

    #[test]
    fn a_cut_argument_is_still_an_argument() {
        let long = format!("#!/bin/sh {}", "x".repeat(HEAD_BYTES));
        let cut = &long.as_bytes()[..HEAD_BYTES];
        assert_eq!(parse(cut), interpreter("/bin/sh", Some(&long[10..HEAD_BYTES - 1])));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_file_begins_with_is_read(head: Vec<u8>, argument: Option<String>) {
            let script = [b"#!", head.as_slice()].concat();
            let _ = (parse(&head), parse(&script), program_of_env(argument.as_deref()));
        }
    }

    #[test]
    fn env_is_followed_where_it_is_clear_what_it_runs() {
        for (argument, program) in [
            ("node", "node"),
            ("./local", "./local"),
            ("node --x", "node --x"),
            ("-S node --x", "node"),
            ("-Snode --x", "node"),
            ("-vS node", "node"),
            ("--split-string=node -a", "node"),
            ("-S NODE_ENV=production -u DEBUG node", "node"),
            ("-S -- node", "node"),
            ("-S 'my tool' -x", "my tool"),
        ] {
            assert_eq!(program_of_env(Some(argument)).as_deref(), Ok(program), "{argument}");
        }
    }

    #[test]
    fn env_that_may_run_anything_is_refused() {
        for argument in [
            None,
            Some("-i"),
            Some("A=1"),
            Some("-S"),
            Some("-S PATH=/tmp node"),
            Some("-S -u PATH node"),
            Some("-S -i node"),
            Some("-S -C /tmp node"),
            Some("-S ${TOOL}"),
            Some("-S node \\c"),
            Some("-S 'open"),
            Some("node\r"),
        ] {
            assert!(program_of_env(argument).is_err(), "{argument:?}");
        }
    }
}
