//! `validate`: what it looks at, and where it says that something is wrong.

use super::*;

fn two_manifests() -> World {
    let world = World::new();
    let good = "# nothing yet\n";
    for (path, text) in
        [("a.toml", good), ("sub/b.toml", "[service.b]\ncolour = 1\n"), ("_drafts/c.toml", good)]
    {
        let path = world.path().join("site").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(world.path().join("site/notes.txt"), "").unwrap();
    world
}

/// File names and problem codes.
fn validated(ran: &Ran) -> Vec<(String, Vec<String>)> {
    let manifests = ran.json()["manifests"].as_array().unwrap().clone();
    let name = |manifest: &Value| {
        Path::new(manifest["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_owned()
    };
    let codes = |manifest: &Value| {
        let problems = manifest["problems"].as_array().unwrap();
        problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned()).collect()
    };
    manifests.iter().map(|manifest| (name(manifest), codes(manifest))).collect()
}

/// A file name and its problem codes.
type Expected<'a> = (&'a str, &'a [&'a str]);

#[test]
fn validate_takes_directories_as_roots_and_files_by_name() {
    let world = two_manifests();
    let of_b = ["missing-key", "unknown-key"];
    let both: &[Expected<'_>] = &[("a.toml", &[]), ("b.toml", &of_b)];
    let cases: &[(&str, i32, &[Expected<'_>])] = &[
        ("site", 3, both),
        ("site/", 3, both),
        ("site site/sub/b.toml", 3, both),
        ("site/sub", 3, &both[1..]),
        ("site/a.toml", 0, &both[..1]),
        ("site/a.toml site/sub/b.toml", 3, both),
        ("site/a.toml ./site/sub/../a.toml", 0, &both[..1]),
        ("site/_drafts/c.toml", 0, &[("c.toml", &[])]),
        ("site/a.toml missing.toml", 1, &[("missing.toml", &["no-such-file"]), ("a.toml", &[])]),
        ("site/notes.txt site/sub/b.toml", 1, &[("notes.txt", &["not-a-manifest"]), ("b.toml", &of_b)]),
        ("none", 1, &[("none", &["no-such-file"])]),
        ("site/a.toml/x", 1, &[("x", &["no-such-file"])]),
        ("-m none", 1, &[("none", &["root-missing"])]),
        ("-m site/a.toml", 1, &[("a.toml", &["root-not-a-directory"])]),
    ];
    for (paths, code, expected) in cases {
        let ran = world.run(&format!("-o json validate {paths}"));
        let owned = |(name, codes): &Expected<'_>| {
            ((*name).to_owned(), codes.iter().map(|code| (*code).to_owned()).collect::<Vec<_>>())
        };
        let expected: Vec<_> = expected.iter().map(owned).collect();
        assert_eq!((ran.code, validated(&ran)), (Some(*code), expected), "{paths}: {ran:?}");
    }
}

#[test]
fn validate_reads_no_standard_input_and_says_so() {
    let ran = World::new().run("validate -");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""));
    assert!(ran.stderr.contains("standard input is not read"), "{ran:?}");
}

#[test]
fn a_refused_and_a_doubled_service_have_their_line_and_column() {
    let world = World::new();
    fs::create_dir(world.path().join("manifests")).unwrap();
    fs::write(world.path().join("manifests/a.toml"), "# a\n\n[service.web]\ncommand = [\"sh\"]\n").unwrap();
    fs::write(world.path().join("manifests/b.toml"), "[service.api]\ncommand = [\"node\"]\n").unwrap();
    fs::write(world.path().join("manifests/c.toml"), "\n[service.api]\ncommand = [\"node\"]\n").unwrap();
    let ran = world.run("validate -o json");
    let manifests = ran.json()["manifests"].as_array().unwrap().clone();
    let places: Vec<_> = manifests
        .iter()
        .map(|manifest| manifest["problems"].as_array().unwrap().last().unwrap().clone())
        .map(|problem| {
            (
                problem["code"].as_str().unwrap().to_owned(),
                problem["line"].as_u64(),
                problem["column"].as_u64(),
            )
        })
        .collect();
    let doubled = || "duplicate-service".to_owned();
    assert_eq!(
        places,
        [
            ("exec-not-allowed".to_owned(), Some(4), Some(11)),
            (doubled(), Some(1), Some(10)),
            (doubled(), Some(2), Some(10)),
        ]
    );
}

#[test]
fn a_directory_that_is_not_entered_is_named() {
    let world = two_manifests();
    std::os::unix::fs::symlink("/", world.path().join("site/out")).unwrap();
    let ran = world.run("validate -o json site");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let expected = ("out".to_owned(), vec!["directory-not-loaded".to_owned()]);
    assert!(validated(&ran).contains(&expected), "{ran:?}");
}

/// Line and code of each problem of a manifest with these lines below `[service.web]`.
fn validated_places(lines: &str) -> (Option<i32>, Vec<(u64, String)>) {
    let world = World::new();
    fs::create_dir(world.path().join("manifests")).unwrap();
    fs::write(world.path().join("manifests/a.toml"), format!("[service.web]\n{lines}")).unwrap();
    fs::write(world.path().join("reconcile.toml"), "[policy]\nexecutables = [\"true\"]\n").unwrap();
    let ran = world.run("validate -o json");
    let problems = ran.json()["manifests"][0]["problems"].as_array().unwrap().clone();
    let place =
        |problem: &Value| (problem["line"].as_u64().unwrap(), problem["code"].as_str().unwrap().to_owned());
    let mut places: Vec<_> = problems.iter().map(place).collect();
    places.sort();
    (ran.code, places)
}

#[test]
fn what_the_policy_refuses_is_placed_at_the_field_at_fault() {
    let lines = "command = [\"cat\"]\nnice = 0\n[service.web.env]\nA = \"1\"\nLD_PRELOAD = \"x\"\n\
                 [service.web.health]\ncommand = [\"sleep\"]\n[service.web.stop]\ncommand = \"cat\"\nshell = true\n";
    let (code, places) = validated_places(lines);
    let found: Vec<_> = places.iter().map(|(line, code)| (*line, code.as_str())).collect();
    let expected = [
        (2, "exec-not-allowed"),
        (6, "env-hijack"),
        (8, "exec-not-allowed"),
        (10, "exec-not-allowed"),
        (11, "shell-not-allowed"),
    ];
    assert_eq!((code, found), (Some(4), expected.to_vec()));
}

#[test]
fn what_a_start_would_wait_for_is_an_error_of_the_manifest() {
    for (lines, line, code) in [
        ("command = [\"true\"]\ncwd = \"nope\"\n", 3, "no-directory"),
        ("command = [\"true\"]\ncwd = \"manifests/a.toml\"\n", 3, "no-directory"),
        ("command = [\"true\"]\nuser = \"no-such-user\"\n", 3, "unknown-user"),
        ("command = [\"no-such-program\"]\n", 2, "executable-not-found"),
    ] {
        let expected = (Some(3), vec![(line, code.to_owned())]);
        assert_eq!(validated_places(lines), expected, "{lines}");
    }
    assert_eq!(validated_places("command = [\"true\"]\ncwd = \"manifests\"\n"), (Some(0), vec![]));
}
