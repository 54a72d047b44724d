//! The codes of the problems that a manifest can have: stable for ever, one place, each shown by a test.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every code of this room.
        pub const ALL: &[&str] = &[$($text),+];
    };
}

codes! {
    /// The text is not TOML.
    SYNTAX = "syntax";
    /// Tables or keys are nested too deeply to be read.
    TOO_DEEP = "too-deep";
    /// There are more tables and arrays than are read.
    TOO_MANY_TABLES = "too-many-tables";
    /// There are more problems than are listed.
    TOO_MANY_PROBLEMS = "too-many-problems";
    /// A key is given twice.
    DUPLICATE_KEY = "duplicate-key";
    /// A service is declared twice in one file.
    DUPLICATE_SERVICE = "duplicate-service";
    /// No such field.
    UNKNOWN_KEY = "unknown-key";
    /// A field that is needed is not given.
    MISSING_KEY = "missing-key";
    /// A value of another type than its field's.
    WRONG_TYPE = "wrong-type";
    /// Fields that exclude each other.
    CONFLICTING_KEYS = "conflicting-keys";
    /// Not a service or project name.
    BAD_NAME = "bad-name";
    /// Not one of the words that a field takes.
    BAD_CHOICE = "bad-choice";
    /// A number outside the range of its field.
    OUT_OF_RANGE = "out-of-range";
    /// Not a duration.
    BAD_DURATION = "bad-duration";
    /// A duration outside the range of its field.
    DURATION_OUT_OF_RANGE = "duration-out-of-range";
    /// Not a size.
    BAD_SIZE = "bad-size";
    /// Not a signal, or not one for this purpose.
    BAD_SIGNAL = "bad-signal";
    /// Not a file mode.
    BAD_UMASK = "bad-umask";
    /// Not a name of a user.
    BAD_USER = "bad-user";
    /// Not a name of an environment variable, or not a pattern of names.
    BAD_ENV_NAME = "bad-env-name";
    /// An environment variable that the reconciler sets itself.
    RESERVED_ENV = "reserved-env";
    /// A control character where none can be.
    BAD_CHARACTER = "bad-character";
    /// A text that is empty and must not be.
    EMPTY = "empty";
    /// Not an address that a socket can listen on.
    BAD_ADDRESS = "bad-address";
    /// A command that cannot be split into words.
    BAD_COMMAND = "bad-command";
    /// A command that only a shell understands.
    NEEDS_SHELL = "needs-shell";
    /// Not an address of the kind that a field takes.
    BAD_URL = "bad-url";
    /// Not a declaration of a port, or no port.
    BAD_PORT = "bad-port";
    /// Not a host name or address.
    BAD_HOST = "bad-host";
    /// Not a regular expression, or too large a one.
    BAD_REGEX = "bad-regex";
    /// Not a pattern of files.
    BAD_PATTERN = "bad-pattern";
    /// A value that JSON does not have.
    BAD_ATTRS = "bad-attrs";
    /// A `{{` without its `}}`.
    BAD_TEMPLATE = "bad-template";
    /// A template that names nothing known.
    UNKNOWN_TEMPLATE = "unknown-template";
    /// A `template` that no file declares.
    NO_TEMPLATE = "no-template";
    /// A hole of a template that `vars` has no value for.
    MISSING_VAR = "missing-var";
    /// A value in `vars` that there is no hole for.
    UNKNOWN_VAR = "unknown-var";
    /// Services that depend on each other in a circle.
    DEPENDENCY_CYCLE = "dependency-cycle";
    /// Templates that refer to each other in a circle.
    TEMPLATE_CYCLE = "template-cycle";
    /// Templates that fill in to more than a process can be given.
    TEMPLATE_TOO_LARGE = "template-too-large";
}
