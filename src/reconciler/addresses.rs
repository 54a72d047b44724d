//! Addresses across manifests: circles of those that hand connections on, and addresses that two services have.
//!
//! A circle is a problem of the members whose text is new, as with dependencies: a connection to it would connect to itself
//! until there is no descriptor left. An address that two have is a warning: one of them may be stopped, or about to
//! be. Decides nothing about steps. Called by `ownership` and `desired`.

use std::collections::HashMap;

use super::dependencies::{may_fall_back, services, ways_around};
use super::ownership::{FileStanding, InForce};
use crate::identity::ServiceId;
use crate::manifest::{Addresses, HealthCheck, ListenOn, Places, Problem, Spec, WantedState, code};

/// Services that hand connections on to each other in a circle.
const PROXY_CYCLE: &str = "proxy-cycle";

/// An address that two services have.
const SHARED: &str = "shared-address";

/// The problem of each service that hands connections on to itself by way of others, and whose text is new, with the
/// position of its file.
pub(super) fn proxy_circles(
    files: &[FileStanding],
    in_force: &[InForce],
    addresses_of: impl Fn(&Spec) -> Addresses,
) -> Vec<(usize, Problem)> {
    let hands_on = |spec: &Spec| spec.activation.proxy.is_some();
    let proxies: Vec<(usize, &ServiceId, Addresses)> = services(in_force)
        .into_iter()
        .filter(|(_, accepted)| hands_on(&accepted.spec))
        .map(|(position, accepted)| (position, &accepted.spec.id, addresses_of(&accepted.spec)))
        .collect();
    let mut listening: HashMap<Meeting<'_>, Vec<u32>> = HashMap::new();
    for (place, (_, _, addresses)) in (0..).zip(&proxies) {
        for socket in &addresses.sockets {
            listening.entry(meeting(&socket.address)).or_default().push(place);
        }
    }
    let needs = |place: u32| {
        let target = proxies[place as usize].2.proxy.as_ref();
        let near = target.and_then(|target| listening.get(&meeting(target))).into_iter().flatten().copied();
        let is_reached = |other: &u32| {
            let mut sockets = proxies[*other as usize].2.sockets.iter();
            target.is_some_and(|target| sockets.any(|socket| socket.address.is_reached_at(target)))
        };
        near.filter(is_reached).collect::<Vec<_>>().into_iter()
    };
    let ways = ways_around(proxies.len() as u32, needs).into_iter();
    ways.filter_map(|way| {
        let (position, service, _) = &proxies[way[0] as usize];
        if !may_fall_back(&files[*position], &in_force[*position]) {
            return None;
        }
        let names: Vec<String> = way.iter().map(|place| proxies[*place as usize].1.to_string()).collect();
        let message = format!("connections are handed on in a circle: {}", names.join(", "));
        let problem = Problem::new(PROXY_CYCLE, message).help(
            "`activation.proxy` is where the program itself listens, not the socket of another service",
        );
        Some((*position, placed(&files[*position], problem, service, "activation.proxy")))
    })
    .collect()
}

/// What two addresses have in common that may exclude each other.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Meeting<'a> {
    Port(u16),
    Path(&'a std::path::Path),
}

fn meeting(address: &ListenOn) -> Meeting<'_> {
    match address {
        ListenOn::Tcp(address) => Meeting::Port(address.port()),
        ListenOn::Unix(path) => Meeting::Path(path),
    }
}

/// Somebody's socket, or a port that it listens on itself, by the field that says so.
#[derive(Debug)]
struct Claim<'a> {
    position: usize,
    service: &'a ServiceId,
    field: String,
    /// `None` of a port: nobody knows on which addresses it listens.
    socket: Option<&'a ListenOn>,
}

impl Claim<'_> {
    /// Of two at one meeting place.
    fn excludes(&self, other: &Self) -> bool {
        self.service != other.service
            && match (self.socket, other.socket) {
                (Some(own), Some(other)) => own.excludes(other),
                // Two ports: a replacement, of which only one runs, as a rule.
                (own, other) => own.is_some() || other.is_some(),
            }
    }
}

/// A warning for each socket and fixed port at the address of another service's socket, of those that are to run.
pub(super) fn warn_of_addresses(
    files: &mut [FileStanding],
    in_force: &[InForce],
    addresses_of: impl Fn(&Spec) -> Addresses,
) {
    let services = services(in_force);
    if services.iter().all(|(_, accepted)| accepted.spec.sockets.is_empty()) {
        return;
    }
    let running = services.iter().filter(|(_, accepted)| accepted.spec.state == WantedState::Running);
    let running: Vec<(usize, &Spec, Addresses)> = running
        .map(|(position, accepted)| (*position, &accepted.spec, addresses_of(&accepted.spec)))
        .collect();
    let mut claims: HashMap<Meeting<'_>, Vec<Claim<'_>>> = HashMap::new();
    for (position, spec, addresses) in &running {
        let (position, service) = (*position, &spec.id);
        for socket in &addresses.sockets {
            let field = format!("sockets.{}", socket.name);
            let claim = Claim { position, service, field, socket: Some(&socket.address) };
            claims.entry(meeting(&socket.address)).or_default().push(claim);
        }
        for (name, port) in &spec.ports {
            for number in port.fixed().into_iter().flat_map(crate::manifest::PortBlock::numbers) {
                let claim = Claim { position, service, field: format!("ports.{name}"), socket: None };
                claims.entry(Meeting::Port(number)).or_default().push(claim);
            }
        }
    }
    let mut problems = Vec::new();
    for (at, claims) in claims.iter().filter(|(_, claims)| claims.len() > 1) {
        for claim in claims.iter().filter(|claim| matches!(in_force[claim.position], InForce::Candidate(_))) {
            let Some(other) = claims.iter().find(|other| claim.excludes(other)) else { continue };
            let address = match (claim.socket.or(other.socket), at) {
                (Some(address), _) => address.to_string(),
                (None, Meeting::Port(port)) => port.to_string(),
                (None, Meeting::Path(path)) => path.display().to_string(),
            };
            let message = format!(
                "`{address}` is `{}` of {} too: one of them waits for as long as the other has it",
                other.field, other.service
            );
            let problem = Problem::warning(SHARED, message).help("give one of them another address");
            problems
                .push((claim.position, placed(&files[claim.position], problem, claim.service, &claim.field)));
        }
    }
    // The table above has no order.
    problems.sort();
    for (position, problem) in problems {
        files[position].problems.push(problem);
    }
}

/// A warning for a check that the first line of a log passes, whatever is in it.
pub(super) fn warn_of_empty_patterns(files: &mut [FileStanding], in_force: &[InForce]) {
    let mut problems = Vec::new();
    for (position, accepted) in services(in_force) {
        let spec = &accepted.spec;
        let is_empty = spec.health.as_ref().is_some_and(
            |health| matches!(&health.check, HealthCheck::Log { pattern } if pattern.trim().is_empty()),
        );
        if is_empty && matches!(in_force[position], InForce::Candidate(_)) {
            let problem = Problem::warning(code::EMPTY, "`health.log` is empty: any line of the log is it")
                .help("write what the line has that says that it is ready, like \"listening on\"");
            problems.push((position, placed(&files[position], problem, &spec.id, "health.log")));
        }
    }
    for (position, problem) in problems {
        files[position].problems.push(problem);
    }
}

/// At the field.
fn placed(file: &FileStanding, problem: Problem, service: &ServiceId, field: &str) -> Problem {
    let problem = problem.of(service.name());
    let text = file.scan.content.as_deref().unwrap_or_default();
    match (Places::of(text).find(service.name(), field), &file.candidate) {
        (Some(span), _) => problem.at(span),
        (None, Some(candidate)) => candidate.placed(problem, service),
        (None, None) => problem,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::host::{FileScan, FileVersion};
    use crate::manifest::{PortBlocks, Surroundings, render_addresses};
    use crate::reconciler::library::Library;
    use crate::reconciler::ownership::settle;
    use crate::state::{FileKey, RootKey};

    /// Files as `name: fields; …`, none of them accepted before unless it says so; the problems of each.
    fn problems(files: &[(&str, bool)]) -> Vec<String> {
        let read = |text: &str| {
            let service = |line: &str| {
                let (name, fields) = line.split_once(": ").unwrap();
                let fields = fields.replace(", ", "\n");
                format!("[service.{}]\ncommand = ['a']\n{fields}\n", name.trim())
            };
            text.split(';').map(service).collect::<String>()
        };
        let standing = |(index, (text, is_accepted)): (usize, &(&str, bool))| {
            let text = read(text);
            let loaded = Library::default().read(&text);
            assert_eq!(loaded.problems, [], "{text}");
            FileStanding {
                key: FileKey { root: RootKey("r1".to_owned()), path: format!("{index}.toml").into() },
                scan: Arc::new(FileScan {
                    version: FileVersion::default(),
                    content: Ok(text.into()),
                    may_show_lines: true,
                }),
                whole_text: None,
                directory_inode: 0,
                last: is_accepted.then(|| Arc::clone(&loaded)),
                candidate: Some(loaded),
                problems: Vec::new(),
            }
        };
        let mut files: Vec<FileStanding> = files.iter().enumerate().map(standing).collect();
        let (home, ports) = (None, PortBlocks::new());
        let around =
            Surroundings { project_dir: Path::new("/srv"), home, ports: &ports, work: None, cwd: None };
        let addresses_of = |spec: &Spec| render_addresses(spec, &around);
        let in_force = settle(&mut files, |_| None, addresses_of);
        warn_of_addresses(&mut files, &in_force, addresses_of);
        warn_of_empty_patterns(&mut files, &in_force);
        let told =
            |problem: &Problem| format!("{}@{}", problem.code, problem.span.map_or(0, |span| span.line));
        files.iter().map(|file| file.problems.iter().map(told).collect::<Vec<_>>().join(" ")).collect()
    }

    fn fresh(files: &[&str]) -> Vec<String> {
        problems(&files.iter().map(|text| (*text, false)).collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_of_proxies_is_refused_wherever_its_members_are() {
        let a = "a: sockets.s = '127.0.0.1:81', activation.proxy = '127.0.0.1:82'";
        let b = "b: sockets.s = '0.0.0.0:82', activation.proxy = '127.0.0.1:81'";
        assert_eq!(fresh(&[&format!("{a};{b}")]), ["proxy-cycle@4 proxy-cycle@8"]);
        assert_eq!(fresh(&[a, b]), ["proxy-cycle@4", "proxy-cycle@4"]);
        assert_eq!(problems(&[(a, true), (b, false)]), ["", "proxy-cycle@4"]);
        let paths =
            |own: &str, other: &str| format!("sockets.s = './{own}', activation.proxy = '/srv/{other}'");
        assert_eq!(
            fresh(&[&format!("a: {}; b: {}", paths("x", "y"), paths("y", "x"))]),
            ["proxy-cycle@4 proxy-cycle@8"]
        );
        let c = "b: sockets.s = '127.0.0.1:82', activation.proxy = '127.0.0.1:83'";
        assert_eq!(fresh(&[a, c]), ["", ""]);
    }

    #[test]
    fn an_address_that_two_services_have_is_told_of_both() {
        let socket = |name: &str, address: &str| format!("{name}: sockets.s = '{address}'");
        let both = ["shared-address@3", "shared-address@3"];
        assert_eq!(fresh(&[&socket("a", "127.0.0.1:81"), &socket("b", "127.0.0.1:81")]), both);
        assert_eq!(fresh(&[&socket("a", "0.0.0.0:81"), &socket("b", "127.0.0.1:81")]), both);
        assert_eq!(fresh(&[&socket("a", "./x.sock"), &socket("b", "/srv/x.sock")]), both);
        assert_eq!(fresh(&[&socket("a", "127.0.0.1:81"), "b: ports.http = 81"]), both);
        assert_eq!(fresh(&[&socket("a", "127.0.0.2:81"), &socket("b", "127.0.0.1:81")]), ["", ""]);
        assert_eq!(fresh(&["a: ports.http = 81", "b: ports.http = 81"]), ["", ""]);
        assert_eq!(fresh(&["a: ports.p = 81, sockets.s = '127.0.0.1:{{ports.p}}'"]), [""]);
        assert_eq!(
            fresh(&[&socket("a", "[::1]:81"), "b: state = 'stopped', sockets.s = '[::1]:81'"]),
            ["", ""]
        );
    }

    #[test]
    fn a_pattern_that_any_line_is_is_told_of() {
        assert_eq!(fresh(&["a: health.log = ''", "b: health.log = 'up'"]), ["empty@3", ""]);
    }
}
