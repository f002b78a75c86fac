//! Comparing versions of the specification, as texts: a configuration may have any.

/// The newest version that this library speaks.
pub const CURRENT: &str = "1.1.0";

/// A version's numbers; those that are left out are 0, and no version at all is 0.1.0. `None` for what libcni refuses.
fn parse(version: &str) -> Option<[u64; 3]> {
    if version.is_empty() {
        return Some([0, 1, 0]);
    }
    let mut numbers = [0; 3];
    for (at, part) in version.split('.').enumerate() {
        *numbers.get_mut(at)? = part.parse().ok()?;
    }
    Some(numbers)
}

/// True if `version` is `other` or a later one; `None` if one of them is no version.
///
/// ```
/// assert_eq!(cni_runtime::is_at_least("1.0.0", "0.4.0"), Some(true));
/// assert_eq!(cni_runtime::is_at_least("", "0.4.0"), Some(false));
/// assert_eq!(cni_runtime::is_at_least("new", "0.4.0"), None);
/// ```
pub fn is_at_least(version: &str, other: &str) -> Option<bool> {
    Some(parse(version)? >= parse(other)?)
}

/// The version to use of those that a list offers in `cniVersions`, with that in its `cniVersion`: the newest that is not newer than
/// [`CURRENT`]. Without any such, what `cniVersion` says.
///
/// # Errors
/// The entry that is no version.
pub(crate) fn negotiate(offered: &[String], single: &str) -> Result<String, String> {
    let known = parse(CURRENT);
    let mut usable = Vec::new();
    for version in offered.iter().map(String::as_str).chain(Some(single).filter(|single| !single.is_empty())) {
        let numbers = parse(version).ok_or_else(|| version.to_owned())?;
        if Some(numbers) <= known {
            usable.push((numbers, version));
        }
    }
    let newest = usable.into_iter().max_by_key(|(numbers, _)| *numbers);
    Ok(newest.map_or(single, |(_, version)| version).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_used() {
        let list = |versions: &[&str]| versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        for (offered, single, used) in [
            (list(&["0.4.0", "1.0.0", "1.1.0", "1.2.0"]), "", "1.1.0"),
            (list(&["0.4.0"]), "1.0.0", "1.0.0"),
            (list(&["9.0.0"]), "", ""),
            (list(&["9.0.0"]), "9.1.0", "9.1.0"),
            (list(&["0.10.0", "0.9.0"]), "", "0.10.0"),
        ] {
            assert_eq!(negotiate(&offered, single).unwrap(), used, "{offered:?} {single:?}");
        }
        assert_eq!(negotiate(&list(&["x"]), "").unwrap_err(), "x");
        assert!(parse("1.2.3.4").is_none() && parse("1.-2").is_none() && parse("1.2") == Some([1, 2, 0]));
    }
}
