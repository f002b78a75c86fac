//! Several sysctls at once: what they are, how they differ, and putting them back.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use cni_plugin::Difference;

use super::{SysctlError, ensure, read};

/// Values by path below `/proc/sys`, in the order to write them in: `all`, which the kernel copies to the interfaces,
/// before the interfaces' own.
pub type Values = BTreeMap<String, String>;

/// The values that these have now. Some can be written only: they make the kernel do something, and have none.
///
/// # Errors
/// As [`read()`]: one that does not exist is an error.
pub fn present<'p>(paths: impl IntoIterator<Item = &'p String>) -> Result<Values, SysctlError> {
    let mut values = Values::new();
    for path in paths {
        match read(path) {
            Ok(value) => drop(values.insert(path.clone(), value)),
            Err(error) if is_write_only(&error) => {}
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
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}

/// Sets all of these that have another value and still exist, past every failure. Idempotent.
pub fn restore(values: &Values) -> Vec<SysctlError> {
    let put_back = |(path, value): (&String, &String)| match ensure(path, value) {
        Ok(_) | Err(SysctlError::NotFound { .. }) => None,
        Err(error) => Some(error),
    };
    values.iter().filter_map(put_back).collect()
}

fn is_write_only(error: &SysctlError) -> bool {
    matches!(error, SysctlError::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

/// The kernel parts a sysctl's numbers with tabs, people with spaces.
fn same_value(wanted: &str, found: &str) -> bool {
    wanted.split_whitespace().eq(found.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_their_words() {
        assert!(same_value("4096 87380 6291456", "4096\t87380\t6291456"));
        assert!(!same_value("1", "2") && !same_value("1 2", "12"));
    }
}
