//! The black-box suite: judges a directory of CNI plugin executables (`CNI_TEST_DIR`, default `bin/`), this project's or any other's.
//!
//! Needs root; every case has its own namespaces. Arguments are those of `cargo test`.
//!
//! # Names
//!
//! A folder is a subject, a file in it a theme, and a case is named by its path: `bridge::vlan::trunk` is in `bridge/vlan.rs`.
//! Theme files say only what follows the path, which `tests/build.rs` takes from the `mod` lines: those are the one list of
//! subjects (here) and themes (in each folder's `mod.rs`), and a module with a function `cases` is a theme.
//!
//! A case that is run for several plugins or for both backends has them as segments before its last name:
//! `interface::routes::ptp::check_after_sbr_of_go`, `portmap::publish::nftables::host_ip`. So the filters `ptp::` and
//! `nftables::` select what concerns them. A version of the specification is a suffix: `static::result_1.0.0`.
//!
//! * A new subject: a folder with a `mod.rs`, and its `mod` line below. A new theme: a file, and its `mod` line in the folder.
//! * What several themes of a subject need is in its `mod.rs`; what several subjects need is in the crate `cni_tests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test program")]

mod bandwidth;
mod bridge;
mod case;
mod cninet;
mod companion;
mod dhcp;
mod dnsname;
mod dummy;
mod examples;
mod faults;
mod firewall;
mod host_device;
mod host_local;
mod interface;
mod ipvlan;
mod loopback;
mod macvlan;
mod netfilter;
mod noded;
mod on_parent;
mod portmap;
mod protocol;
mod ptp;
mod sbr;
mod spec;
mod r#static;
mod tap;
mod tuning;
mod verbs;
mod vlan;
mod vrf;
mod vxlan;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use cni_tests::{tools, verdict};
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the black-box suite makes network namespaces and needs root");
        return ExitCode::SUCCESS;
    }
    let dir = match directory() {
        Ok(dir) => dir,
        Err(code) => return code,
    };
    let missing = tools::missing();
    if !missing.is_empty() && !args.list {
        let named: Vec<_> = missing.iter().map(|(program, package)| format!("{program} (package {package})")).collect();
        println!("programs that the suite runs are missing: {}", named.join(", "));
        return ExitCode::FAILURE;
    }
    verdict::install_hook();
    let code = case::judge(&args, &dir, all_cases());
    if let Err(error) = spec::report(&dir) {
        println!("the conformance table can't be written: {error}");
        return ExitCode::FAILURE;
    }
    code
}

/// A theme's path below this folder, and what gives its cases.
type Theme = (&'static str, fn() -> Vec<case::Case>);

fn all_cases() -> Vec<case::Case> {
    THEMES.iter().flat_map(|(path, cases)| cases().into_iter().map(|case| case.below(path))).collect()
}

// `THEMES`, which tests/build.rs makes of the `mod` lines.
include!(concat!(env!("OUT_DIR"), "/themes.rs"));

/// The directory under test; without one the suite ends, which is a failure only if it was asked for.
fn directory() -> Result<PathBuf, ExitCode> {
    let given = std::env::var_os("CNI_TEST_DIR").map(PathBuf::from);
    let dir = given.clone().unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bin")));
    dir.canonicalize().ok().filter(|d| d.is_dir()).ok_or_else(|| {
        println!("no directory {} to test: run hack/build.sh, or set CNI_TEST_DIR", dir.display());
        if given.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}
