//! Several sysctls at once: what they are, how they differ, and putting them back.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use cni_plugin::Difference;
use rustix::io::Errno;

use super::{SysctlError, ensure, read, write};

/// Values by path below `/proc/sys`.
pub type Values = BTreeMap<String, String>;

/// The values that these have now. Some have none: they can be written only, because they make the kernel do something,
/// or they have not been set yet.
///
/// # Errors
/// As [`read()`]: one that does not exist is an error.
pub fn present<'p>(paths: impl IntoIterator<Item = &'p String>) -> Result<Values, SysctlError> {
    let mut values = Values::new();
    for path in paths {
        match read(path) {
            Ok(value) => drop(values.insert(path.clone(), value)),
            Err(error) if is_write_only(&error) || is_unset(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(values)
}

/// Which of these have another value, or do not exist.
///
/// # Errors
/// As [`read()`], of what exists and can't be read.
pub fn compare(wanted: &Values) -> Result<Vec<Difference>, SysctlError> {
    let mut differences = Vec::new();
    for (path, wanted) in wanted {
        match read(path) {
            Ok(found) if same_value(wanted, &found) => {}
            Ok(found) => differences.push(Difference::new(format!("sysctl {path}"), wanted, found)),
            Err(SysctlError::NotFound { .. }) => differences.push(Difference::missing(format!("sysctl {path}"))),
            Err(error) if is_write_only(&error) => {}
            Err(error) if is_unset(&error) => {
                differences.push(Difference::new(format!("sysctl {path}"), wanted, "no value"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}

/// Sets all of these, up to the first failure.
///
/// # Errors
/// As [`write()`].
pub fn write_all(values: &Values) -> Result<(), SysctlError> {
    in_order(values).into_iter().try_for_each(|(path, value)| write(path, value))
}

/// Sets all of these that have another value and still exist, past every failure. Idempotent.
pub fn restore(values: &Values) -> Vec<SysctlError> {
    let put_back = |(path, value): (&String, &String)| match ensure(path, value) {
        Ok(_) | Err(SysctlError::NotFound { .. }) => None,
        Err(error) => Some(error),
    };
    in_order(values).into_iter().filter_map(put_back).collect()
}

/// What the kernel copies to the interfaces, before the interfaces' own; and what copies more, before that.
fn in_order(values: &Values) -> Vec<(&String, &String)> {
    let mut ordered: Vec<_> = values.iter().collect();
    ordered.sort_by_key(|(path, _)| rank(path));
    ordered
}

/// Forwarding sets every interface's, and `accept_redirects` of all (`inet_forward_change` in net/ipv4/devinet.c).
fn rank(path: &str) -> u8 {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["net", _, "ip_forward"] => 0,
        ["net", _, "conf", "all", "forwarding"] => 1,
        ["net", _, "conf", "all", ..] => 2,
        ["net", _, "conf" | "neigh", "default", ..] => 3,
        _ => 4,
    }
}

fn is_write_only(error: &SysctlError) -> bool {
    matches!(error, SysctlError::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

/// `stable_secret` answers so as long as there is none (`addrconf_sysctl_stable_secret` in net/ipv6/addrconf.c).
fn is_unset(error: &SysctlError) -> bool {
    matches!(error, SysctlError::Read { source, .. } if Errno::from_io_error(source) == Some(Errno::IO))
}

/// The kernel parts a sysctl's numbers with tabs, people with spaces.
fn same_value(wanted: &str, found: &str) -> bool {
    wanted.split_whitespace().eq(found.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_to_others_is_written_before_them() {
        let paths = [
            "net/ipv4/ip_forward",
            "net/ipv4/conf/all/forwarding",
            "net/ipv4/conf/all/accept_redirects",
            "net/ipv6/conf/all/disable_ipv6",
            "net/ipv4/conf/default/rp_filter",
            "net/core/somaxconn",
            "net/ipv4/conf/ETH0/forwarding",
            "net/ipv4/conf/eth0/forwarding",
        ];
        let values: Values = paths.iter().map(|path| ((*path).to_owned(), String::new())).collect();
        assert_eq!(in_order(&values).into_iter().map(|(path, _)| path).collect::<Vec<_>>(), paths);
    }

    #[test]
    fn values_are_compared_by_their_words() {
        assert!(same_value("4096 87380 6291456", "4096\t87380\t6291456"));
        assert!(!same_value("1", "2") && !same_value("1 2", "12"));
    }
}
