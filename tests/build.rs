//! Lists the themes of the suite, so that the `mod` lines below `suite/main.rs` are the only list of them and a case's name
//! can't differ from its path: each module with a function `cases` becomes `("bridge::vlan", bridge::vlan::cases)`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a build script")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let mut themes = String::new();
    list(Path::new("suite/main.rs"), Path::new("suite"), "", &mut themes);
    let code =
        format!("/// Every theme: its path, and what gives its cases.\nconst THEMES: &[Theme] = &[\n{themes}];\n");
    fs::write(PathBuf::from(std::env::var_os("OUT_DIR").unwrap()).join("themes.rs"), code).unwrap();
}

/// Adds the themes among the modules that `file` declares; `folder` is where their files are.
fn list(file: &Path, folder: &Path, path: &str, themes: &mut String) {
    println!("cargo::rerun-if-changed={}", file.display());
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    for module in text.lines().filter_map(declared) {
        let name = module.trim_start_matches("r#");
        let (single, subject) = (folder.join(name).with_extension("rs"), folder.join(name));
        let of = if single.exists() { single } else { subject.join("mod.rs") };
        let path = format!("{path}{module}");
        if fs::read_to_string(&of).unwrap_or_default().contains("\npub(crate) fn cases()") {
            writeln!(themes, "    (\"{}\", {path}::cases),", path.replace("r#", "")).unwrap();
        }
        if of.ends_with("mod.rs") {
            list(&of, &subject, &format!("{path}::"), themes);
        }
    }
}

/// The module that a line declares.
fn declared(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    line.strip_prefix("mod ")?.strip_suffix(';')
}
