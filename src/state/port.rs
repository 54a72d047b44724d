//! Who holds a port, as far as it can be seen: the evidence of a reason.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::identity::Pid;

/// A process that listens on a port. What is not known is what we may not read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortHolder {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// What it executes, by path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The service of ours that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The user that the socket belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.pid.map(|pid| format!("pid {pid}"));
        let facts: Vec<String> = match &self.service {
            Some(service) => {
                f.write_str(&format!("service {service}"))?;
                pid.into_iter().chain(self.exe.clone()).collect()
            }
            None => {
                let user = self.uid.map_or_else(String::new, |uid| format!(" of uid {uid}"));
                f.write_str(&pid.unwrap_or_else(|| format!("a process{user} that cannot be looked at")))?;
                self.exe.clone().into_iter().collect()
            }
        };
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_named_by_what_is_known_of_it() {
        let pid = Pid::new(12);
        let exe = Some("/usr/bin/nginx".to_owned());
        let stranger = PortHolder { pid, exe: exe.clone(), ..PortHolder::default() };
        assert_eq!(stranger.to_string(), "pid 12 (/usr/bin/nginx)");
        let ours = PortHolder { pid, exe, service: Some("web".to_owned()), uid: Some(0) };
        assert_eq!(ours.to_string(), "service web (pid 12, /usr/bin/nginx)");
        let waits = PortHolder { service: Some("web".to_owned()), ..PortHolder::default() };
        assert_eq!(waits.to_string(), "service web");
        let hidden = PortHolder { uid: Some(33), ..PortHolder::default() };
        assert_eq!(hidden.to_string(), "a process of uid 33 that cannot be looked at");
    }
}
