//! Which configuration is taken, from real files.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// Directories for each place that is looked at.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: TempDir::new().unwrap() };
        for name in ["here/manifests", "user", "etc"] {
            std::fs::create_dir_all(world.path(name)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// A configuration that is told from others by its `resync`.
    fn write(&self, name: &str, seconds: u32) -> PathBuf {
        self.write_text(name, &format!("resync = '{seconds}s'\n"))
    }

    fn write_text(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.mode(name, 0o644);
        self.path(name)
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn places(&self) -> Places {
        Places {
            explicit: None,
            here: Some(self.path("here")),
            user: Some(self.path("user/config.toml")),
            ceiling: Some(self.path("etc/config.toml")),
        }
    }

    fn roots(&self) -> Vec<PathBuf> {
        vec![self.path("here/manifests")]
    }

    fn load(&self) -> Result<LoadedConfig, ConfigError> {
        load_from(&self.places(), &self.roots())
    }

    fn load_by_name(&self, path: PathBuf) -> Result<LoadedConfig, ConfigError> {
        load_from(&Places { explicit: Some(path), ..self.places() }, &self.roots())
    }
}

fn seconds(loaded: &LoadedConfig) -> u64 {
    loaded.config.resync().as_secs()
}

#[test]
fn without_a_file_the_configuration_is_empty() {
    let loaded = World::new().load().unwrap();
    assert_eq!((loaded.config, loaded.files, loaded.problems), (Config::default(), vec![], vec![]));
}

#[test]
fn the_first_file_that_is_there_is_taken_alone() {
    let world = World::new();
    let user = world.write("user/config.toml", 3);
    let loaded = world.load().unwrap();
    assert_eq!((seconds(&loaded), &loaded.files[0].path), (3, &user));
    let here = world.write("here/reconcile.toml", 2);
    let loaded = world.load().unwrap();
    assert_eq!((seconds(&loaded), &loaded.files[0].path), (2, &here));
    let named = world.write("named.toml", 1);
    let loaded = world.load_by_name(named).unwrap();
    assert_eq!((seconds(&loaded), loaded.files.len()), (1, 1));
    assert_eq!(loaded.files[0].text, "resync = '1s'\n");
}

#[test]
fn a_named_file_must_be_there() {
    let world = World::new();
    let error = world.load_by_name(world.path("none.toml")).unwrap_err();
    assert_eq!(error.code(), "config-unreadable");
    assert!(error.to_string().contains("none.toml"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_never_silent() {
    let world = World::new();
    symlink(world.path("none"), world.path("user/config.toml")).unwrap();
    assert_eq!(world.load().unwrap_err().code(), "config-unreadable");
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(world.load_by_name(fifo).unwrap_err().code(), "config-unreadable");
    let large = world.write_text("large.toml", &"#".repeat(MAX_BYTES as usize + 1));
    assert_eq!(world.load_by_name(large).unwrap_err().code(), "config-unreadable");
    let binary = world.path("binary.toml");
    std::fs::write(&binary, b"\xff").unwrap();
    assert_eq!(world.load_by_name(binary).unwrap_err().code(), "config-unreadable");
}

#[test]
fn a_file_that_others_can_write_is_refused_wherever_it_is() {
    for name in ["user/config.toml", "etc/config.toml", "here/reconcile.toml"] {
        let world = World::new();
        world.write(name, 5);
        world.mode(name, 0o646);
        assert_eq!(world.load().unwrap_err().code(), "config-unsafe", "{name}");
    }
}

#[test]
fn a_configuration_inside_a_root_is_refused_by_name_and_by_link() {
    let world = World::new();
    let inside = world.write("here/manifests/conf.toml", 5);
    assert_eq!(world.load_by_name(inside.clone()).unwrap_err().code(), "config-inside-root");
    symlink(&inside, world.path("innocent.toml")).unwrap();
    assert_eq!(world.load_by_name(world.path("innocent.toml")).unwrap_err().code(), "config-inside-root");
    let outside = world.write("outside.toml", 5);
    symlink(outside, world.path("here/manifests/link.toml")).unwrap();
    let link = world.load_by_name(world.path("here/manifests/link.toml"));
    assert_eq!(link.unwrap_err().code(), "config-inside-root", "whoever writes there can point it elsewhere");
}

#[test]
fn the_file_here_is_left_alone_where_others_could_have_written_it() {
    let world = World::new();
    world.write("here/reconcile.toml", 2);
    world.write("user/config.toml", 3);
    world.mode("here", 0o777);
    let loaded = world.load().unwrap();
    assert_eq!(seconds(&loaded), 3);
    let (path, problem) = &loaded.problems[0];
    assert_eq!((path, problem.code.as_str()), (&world.path("here/reconcile.toml"), IGNORED));
    assert!(problem.message.contains("everybody can write"), "{}", problem.message);

    world.mode("here", 0o755);
    world.mode("here/manifests", 0o777);
    assert_eq!(seconds(&world.load().unwrap()), 3, "a stranger's manifest runs as we do");
    world.mode("here/manifests", 0o755);
    assert_eq!(seconds(&world.load().unwrap()), 2);
}

#[test]
fn the_file_here_is_left_alone_inside_a_root() {
    let world = World::new();
    world.write("here/reconcile.toml", 2);
    let loaded = load_from(&world.places(), &[world.path("here")]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.problems[0].1.code, IGNORED);
}

#[test]
fn the_ceiling_stands_above_and_tells() {
    let world = World::new();
    let own = world.write("user/config.toml", 90);
    let ceiling = world.write("etc/config.toml", 30);
    let loaded = world.load().unwrap();
    assert_eq!(loaded.config.resync(), Duration::from_secs(30));
    let read: Vec<_> = loaded.files.iter().map(|file| &file.path).collect();
    assert_eq!(read, [&own, &ceiling]);
    assert_eq!((&loaded.problems[0].0, loaded.problems[0].1.code.as_str()), (&own, "above-ceiling"));
    std::fs::remove_file(own).unwrap();
    let loaded = world.load().unwrap();
    assert_eq!((seconds(&loaded), loaded.problems), (30, vec![]));
}

#[test]
fn a_mistake_in_either_file_is_an_error_with_its_text() {
    for name in ["user/config.toml", "etc/config.toml"] {
        let world = World::new();
        let wrong = world.write_text(name, "resinc = '1s'\n");
        let error = world.load().unwrap_err();
        assert_eq!(error.code(), "config-invalid");
        let ConfigError::Invalid { path, text, problems } = error else { panic!("{name}") };
        assert_eq!((path, text.as_str(), problems.len()), (wrong, "resinc = '1s'\n", 1));
    }
}

#[test]
fn the_places_of_a_process_are_absolute() {
    let places = Places::of_process(Some(Path::new("my.toml")));
    assert_eq!(places.explicit, Some(PathBuf::from("my.toml")));
    assert_eq!(places.ceiling, Some(PathBuf::from(CEILING)));
    for place in [places.here, places.user].into_iter().flatten() {
        assert!(place.is_absolute(), "{}", place.display());
    }
}

/// Puts a file there as editors do: under another name first.
fn replace(world: &World, name: &str, seconds: u32) {
    let new = world.write("new.toml", seconds);
    std::fs::rename(new, world.path(name)).unwrap();
}

#[test]
fn a_configuration_that_appears_or_changes_is_to_be_read_again() {
    let world = World::new();
    let mut seen = world.load().unwrap().seen;
    for name in ["etc/config.toml", "user/config.toml", "here/reconcile.toml"] {
        assert_eq!(seen.change(), Change::None);
        replace(&world, name, 5);
        assert_eq!(seen.change(), Change::Changed, "{name} has appeared");
        seen = world.load().unwrap().seen;
        replace(&world, name, 6);
        assert_eq!(seen.change(), Change::Changed, "{name} has changed");
        seen = world.load().unwrap().seen;
    }
    // Of no consequence, but that is for the reader to say.
    std::fs::remove_file(world.path("user/config.toml")).unwrap();
    assert_eq!(seen.change(), Change::Changed);
}

#[test]
fn a_file_in_force_that_is_gone_is_told_once_and_waited_for() {
    let world = World::new();
    world.write("user/config.toml", 5);
    let mut seen = world.load().unwrap().seen;
    std::fs::rename(world.path("user/config.toml"), world.path("user/config.toml~")).unwrap();
    assert_eq!(seen.change(), Change::Gone(world.path("user/config.toml")));
    world.write("etc/config.toml", 7);
    assert_eq!(seen.change(), Change::None, "all or nothing");
    replace(&world, "user/config.toml", 6);
    assert_eq!(seen.change(), Change::Changed);
}

#[test]
fn a_file_that_goes_away_between_a_look_and_the_reading_is_not_taken_for_none() {
    let world = World::new();
    let own = world.write("user/config.toml", 5);
    let mut seen = world.load().unwrap().seen;
    replace(&world, "user/config.toml", 6);
    assert_eq!(seen.change(), Change::Changed);
    std::fs::remove_file(&own).unwrap();
    let newer = world.load().unwrap().seen;
    assert_eq!(seen.lost_in(&newer), Some(own.as_path()));
    assert_eq!(seen.change(), Change::Gone(own));
    world.write("here/reconcile.toml", 7);
    world.write("user/config.toml", 8);
    let newer = world.load().unwrap().seen;
    assert_eq!(seen.lost_in(&newer), None, "another is before it, and it is still there");
}

#[test]
fn a_mistake_is_told_once() {
    let world = World::new();
    world.write("user/config.toml", 5);
    let mut seen = world.load().unwrap().seen;
    world.write_text("user/config.toml", "resinc = '1s'\n");
    assert_eq!(seen.change(), Change::Changed);
    world.load().unwrap_err();
    seen.look_again();
    assert_eq!(seen.change(), Change::None);
    world.write("user/config.toml", 6);
    assert_eq!(seen.change(), Change::Changed);
}
