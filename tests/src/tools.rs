//! The programs that the suite runs beside the plugins: one list for the suite, for what is installed, and for the virtual machine.

use std::path::Path;

/// `tests/tools`: program and Debian package, a line each.
const LIST: &str = include_str!("../tools");

/// Every program with the package that has it.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().zip(words.next())
    })
}

/// The programs that are in no directory of `PATH`, each with the package that has it.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    all().filter(|(program, _)| !found(program)).collect()
}

/// True if the program is on the list, or is a file of the case's own; `iptables-nft-save` and the like count as `iptables`.
pub(crate) fn is_listed(program: &str) -> bool {
    let name = program.strip_suffix("-save").or_else(|| program.strip_suffix("-restore")).unwrap_or(program);
    let name = name.strip_suffix("-nft").or_else(|| name.strip_suffix("-legacy")).unwrap_or(name);
    Path::new(program).is_absolute() || all().any(|(listed, _)| listed == name)
}
