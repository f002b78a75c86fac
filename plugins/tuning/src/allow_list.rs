//! The node's own list of sysctls that networks may set.

use std::io::ErrorKind;
use std::path::Path;

use cni_plugin::{CniError, state};
use regex_lite::Regex;

use crate::settings::Settings;

/// One regular expression a line; without the file everything below `net/` is allowed. The path is the Go plugin's.
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";
/// No list is as long, in bytes.
const LENGTH_MAX: u64 = 1024 * 1024;

/// Refuses a sysctl that no line of the list matches, anywhere in the name as it is configured.
pub fn permit(settings: &Settings) -> Result<(), CniError> {
    if settings.sysctls.is_empty() {
        return Ok(());
    }
    match state::read_config(Path::new(ALLOW_LIST), LENGTH_MAX) {
        // What isn't UTF-8 can match nothing that a configuration says.
        Ok(list) => matches(settings, &String::from_utf8_lossy(&list)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CniError::plugin(format!("cannot read {ALLOW_LIST}: {error}"))),
    }
}

/// The same by the text of a list.
pub fn matches(settings: &Settings, list: &str) -> Result<(), CniError> {
    let lines: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let patterns: Vec<Regex> = lines.iter().map(|line| compile(line)).collect::<Result<_, _>>()?;
    match settings.sysctls.values().find(|sysctl| !patterns.iter().any(|pattern| pattern.is_match(&sysctl.key))) {
        None => Ok(()),
        Some(sysctl) => Err(CniError::plugin(format!(
            "Sysctl {} is not allowed. Only the following sysctls are allowed: [{}] ({ALLOW_LIST})",
            sysctl.key,
            lines.join(" ")
        ))),
    }
}

fn compile(line: &str) -> Result<Regex, CniError> {
    Regex::new(line)
        .map_err(|error| CniError::plugin(format!("{ALLOW_LIST}: {line:?} is not a regular expression: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sysctl;
    use std::collections::BTreeMap;

    fn verdict(key: &str, list: &str) -> Result<(), String> {
        let sysctl = Sysctl { key: key.to_owned(), value: String::new() };
        let settings = Settings {
            sysctls: BTreeMap::from([(key.replace('.', "/"), sysctl)]),
            mac: None,
            mtu: None,
            promisc: false,
            all_multicast: None,
            tx_queue: None,
        };
        matches(&settings, list).map_err(|error| error.msg)
    }

    #[test]
    fn a_line_matches_anywhere_unless_it_is_anchored() {
        assert!(verdict("net.ipv4.conf.IFNAME.arp_filter", "net.core\n  arp_ \n").is_ok());
        assert!(verdict("net.ipv4.conf.IFNAME.arp_filter", r"^net\.ipv4\.conf\.IFNAME\.[a-z_]*$").is_ok());
        let refused = verdict("net.ipv4.ip_forward", "^net.ipv4.conf\n\n^arp_\n").unwrap_err();
        assert!(refused.contains("Sysctl net.ipv4.ip_forward is not allowed"), "{refused}");
        assert!(refused.contains("[^net.ipv4.conf ^arp_]"), "{refused}");
    }

    #[test]
    fn an_empty_list_allows_nothing_and_a_bad_line_is_named() {
        assert!(verdict("net.core.somaxconn", "\n").is_err());
        assert!(verdict("net.core.somaxconn", "net(").unwrap_err().contains("\"net(\""));
    }
}
