//! Manifests that are made to be expensive: what reading one costs, in time and memory, is bounded by its size.
//!
//! Beside an ordinary text of the same size, in the same run, so that nothing depends on the machine.

#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reconcile::manifest::{Surroundings, load, render};

/// The largest manifest that is read has a megabyte, and so have these where `RECONCILE_TEST_FULL` is set. Of texts that
/// are no larger than this, with an error in them, all of the rest is read.
const USUAL: usize = 64 << 10;

fn size() -> usize {
    if std::env::var_os("RECONCILE_TEST_FULL").is_some() { 1 << 20 } else { USUAL }
}

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "JUSTIFICATION: only an allocator sees what is allocated")]
// SAFETY: everything is the system allocator's; beside it two counters move.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn repeated(piece: impl Fn(usize) -> String, head: &str, tail: &str) -> String {
    let mut text = head.to_owned();
    for index in 0.. {
        let next = piece(index);
        if text.len() + next.len() + tail.len() > size() {
            break;
        }
        text.push_str(&next);
    }
    text + tail
}

fn hostile() -> Vec<(&'static str, String)> {
    let service = |n: usize| format!("[service.s{n}]\ncommand='a'\n");
    vec![
        ("services without anything", repeated(service, "", "")),
        ("empty services", repeated(|n| format!("[service.a{n}]\n"), "", "")),
        ("keys of one character", repeated(|n| format!("k{n}=1\n"), "", "")),
        ("unknown keys of one service", repeated(|n| format!("k{n}=1\n"), "[service.a]\ncommand='a'\n", "")),
        ("unknown tables", repeated(|n| format!("[t{n}]\n"), "", "")),
        ("keys that are nearly known", repeated(|n| format!("comman{n}=1\n"), "[service.a]\n", "")),
        ("dotted keys", repeated(|n| format!("a.b.c.d.e.f.g{n}=1\n"), "[service.a]\ncommand='a'\n", "")),
        ("one key again and again", repeated(|_| "a=1\n".to_owned(), "", "")),
        ("one table again and again", repeated(|_| "[a]\n".to_owned(), "", "")),
        ("arrays of tables", repeated(|_| "[[service]]\n".to_owned(), "", "")),
        ("a huge array", repeated(|_| "'',".to_owned(), "[service.a]\ncommand=['a',", "]\n")),
        ("nested arrays", repeated(|_| format!("{}{},", "[".repeat(50), "]".repeat(50)), "a=[", "]\n")),
        ("inline tables", repeated(|_| "{a={b={}}},".to_owned(), "a=[", "]\n")),
        ("variables", repeated(|n| format!("K{n}=''\n"), "[service.a]\ncommand='a'\n[service.a.env]\n", "")),
        (
            "bad variables",
            repeated(|n| format!("'={n}'=1\n"), "[service.a]\ncommand='a'\n[service.a.env]\n", ""),
        ),
        ("templates of nothing", repeated(|_| "{{x}}".to_owned(), "[service.a]\ncommand=['a','", "']\n")),
        (
            "templates of much",
            repeated(|_| "{{env.A}}".to_owned(), "[service.a]\nenv.A='x'\ncommand=['a','", "']\n"),
        ),
        (
            "variables that refer to the one before",
            repeated(
                |n| format!("K{}='{{{{env.K{n}}}}}{{{{env.K{n}}}}}'\n", n + 1),
                "[service.a]\ncommand='a'\n[service.a.env]\nK0='xx'\n",
                "",
            ),
        ),
        (
            "attributes",
            repeated(|n| format!("a{n}={n}\n"), "[service.a]\ncommand='a'\n[service.a.attrs]\n", ""),
        ),
        ("labels", repeated(|n| format!("a{n}=''\n"), "[service.a]\ncommand='a'\n[service.a.labels]\n", "")),
        (
            "what is inherited",
            repeated(|n| format!("'A{n}',"), "[service.a]\ncommand='a'\ninherit_env=[", "]\n"),
        ),
        ("escapes", repeated(|_| "\\u0041".to_owned(), "[service.a]\ncommand=\"", "\"\n")),
        ("quotes", repeated(|_| "'a' ".to_owned(), "[service.a]\ncommand=\"", "\"\n")),
        ("comments", repeated(|_| "#\n".to_owned(), "", "")),
        ("lines", repeated(|_| "\n".to_owned(), "", "x")),
        ("equals signs", repeated(|_| "=".to_owned(), "", "")),
        ("opening quotes", repeated(|_| "'''".to_owned(), "", "")),
        ("carriage returns", repeated(|_| "\r".to_owned(), "", "")),
        ("one long key", repeated(|_| "a".to_owned(), "", "=1\n")),
        ("one long name", repeated(|_| "a".to_owned(), "[service.", "]\ncommand='a'\n")),
        ("marks that hide", repeated(|_| "\u{202e}".to_owned(), "[service.a]\ncommand='", "'\n")),
        (
            "expressions",
            repeated(
                |_| "(a{9}){9}".to_owned(),
                "[service.a]\ncommand='a'\nhealth={command='a',expect_regex='",
                "'}\n",
            ),
        ),
        (
            "a repeated expression",
            "[service.a]\ncommand='a'\nhealth={command='a',expect_regex='((((\\w{99}){99}){99}){99}){99}'}\n"
                .to_owned(),
        ),
    ]
}

/// A manifest of many ordinary services.
fn ordinary() -> String {
    let service = |n: usize| {
        format!(
            "[service.web-{n}]\ncommand = ['node', 'server.js', '--port', '80{n}']\nenv = {{ NODE_ENV = 'production' }}\nurl = 'http://127.0.0.1:80'\nhealth = '/health'\n\n"
        )
    };
    repeated(service, "", "")
}

struct Cost {
    time: Duration,
    bytes: usize,
}

/// Of this process: on a busy machine a clock on the wall counts the others too.
fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    nix::time::clock_gettime(clock).expect("a process has this clock").into()
}

fn cost_of(text: &str) -> Cost {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let begun = cpu_time();
    let loaded = load(text);
    let around = Surroundings {
        project_dir: std::path::Path::new("/srv"),
        home: None,
        ports: &reconcile::manifest::PortBlocks::new(),
        work: None,
        cwd: None,
    };
    let accepted = if loaded.problems.is_empty() { loaded.services.as_slice() } else { &[] };
    for declared in accepted {
        let _ = render(&declared.spec, &around);
    }
    let time = cpu_time() - begun;
    Cost { time, bytes: PEAK.load(Ordering::Relaxed) - before }
}

/// Anything else on the machine only adds.
fn least_of_three(text: &str) -> Cost {
    let costs = [cost_of(text), cost_of(text), cost_of(text)];
    let time = costs.iter().map(|cost| cost.time).min().expect("there are three");
    let bytes = costs.iter().map(|cost| cost.bytes).min().expect("there are three");
    Cost { time, bytes }
}

#[test]
fn a_hostile_manifest_costs_no_more_than_its_size() {
    // What grows with the square of the size is beyond this by far.
    const TIMES: f64 = 16.0;
    const MANY_TIMES: f64 = 10.0;
    let ordinary = ordinary();
    let mut beyond = Vec::new();
    for (name, text) in hostile() {
        assert!(text.len() <= size(), "{name}");
        // A neighbour on the same core can slow one of the two down, but not each time.
        let is_bounded = (0..3).any(|_| {
            let floor = least_of_three(&ordinary);
            let Cost { time, bytes } = least_of_three(&text);
            let time = time.as_secs_f64() / floor.time.as_secs_f64();
            let memory = bytes as f64 / floor.bytes as f64;
            println!("{name}: {time:.2} of the time, {memory:.2} of the memory");
            time <= TIMES && memory <= MANY_TIMES
        });
        if !is_bounded {
            beyond.push(name);
        }
    }
    assert!(beyond.is_empty(), "beyond an ordinary manifest of that size: {}", beyond.join(", "));
}
