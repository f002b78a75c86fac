//! The black-box suite: judges a directory of CNI plugin executables (`CNI_TEST_DIR`, default `bin/`), ours or anyone's.
//!
//! Needs root; every case has its own namespaces. Arguments are those of `cargo test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test program")]

mod backends;
mod bad_input;
mod bad_keys;
mod bad_ranges;
mod bridge;
mod bridge_edges;
mod bridge_keys;
mod bridge_lock;
mod bridge_mac;
mod bridge_new_keys;
mod bridge_rollback;
mod bridge_rollback_keys;
mod bridge_shared;
mod bridge_spoof;
mod bridge_upgrade;
mod bridge_vlan;
mod bridge_vlan_gateway;
mod bridge_wire;
mod case;
mod check;
mod check_told;
mod conformance;
mod delegation;
mod docker;
mod each;
mod examples;
mod exhausted;
mod faults;
mod firewall;
mod firewall_back;
mod firewall_check;
mod firewall_foreign;
mod firewall_go;
mod firewall_legacy;
mod firewall_matrix;
mod firewall_mixed;
mod firewall_state;
mod firewall_status;
mod firewalld;
mod gc;
mod host_local;
mod host_local_state;
mod leftovers;
mod lives;
mod loopback;
mod masquerade;
mod mistyped;
mod mtu;
mod networks;
mod portmap;
mod portmap_edges;
mod portmap_flows;
mod portmap_go;
mod portmap_iptables;
mod portmap_life;
mod portmap_nftables;
mod privileges;
mod protocol;
mod ptp;
mod ptp_check;
mod ptp_ipam;
mod ptp_leftovers;
mod ptp_masquerade;
mod reach;
mod ready;
mod rollback;
mod routes;
mod sctp;
mod r#static;
mod status;
mod story;
mod tuning;
mod tuning_backup;
mod tuning_check;
mod tuning_sysctl;
mod unreadable;
mod unusable;
mod uplink;
mod versions;
mod waits;

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
    let code = case::judge(&args, &dir, SUBJECTS.iter().flat_map(|cases| cases()).collect());
    if let Err(error) = conformance::report(&dir) {
        println!("the conformance table can't be written: {error}");
        return ExitCode::FAILURE;
    }
    code
}

/// What gives the cases of a subject.
type Subject = fn() -> Vec<case::Case>;

/// All of them, in the order in which they are told.
const SUBJECTS: [Subject; 73] = [
    protocol::cases,
    versions::cases,
    backends::cases,
    unreadable::cases,
    bad_input::cases,
    bad_keys::cases,
    lives::cases,
    faults::cases,
    loopback::cases,
    host_local::cases,
    bridge::cases,
    bridge_edges::cases,
    bridge_keys::cases,
    bridge_mac::cases,
    bridge_new_keys::cases,
    bridge_lock::cases,
    bridge_rollback::cases,
    bridge_rollback_keys::cases,
    bridge_shared::cases,
    bridge_upgrade::cases,
    bridge_wire::cases,
    bridge_spoof::cases,
    bridge_vlan::cases,
    bridge_vlan_gateway::cases,
    mtu::cases,
    masquerade::cases,
    portmap::cases,
    portmap_go::cases,
    portmap_iptables::cases,
    portmap_life::cases,
    portmap_nftables::cases,
    reach::cases,
    firewall::cases,
    firewall_matrix::cases,
    firewall_mixed::cases,
    firewall_legacy::cases,
    firewall_state::cases,
    firewall_status::cases,
    firewall_back::cases,
    firewall_check::cases,
    firewall_foreign::cases,
    firewall_go::cases,
    firewalld::cases,
    leftovers::cases,
    mistyped::cases,
    check::cases,
    check_told::cases,
    gc::cases,
    rollback::cases,
    delegation::cases,
    status::cases,
    host_local_state::cases,
    bad_ranges::cases,
    r#static::cases,
    ptp::cases,
    ptp_ipam::cases,
    ptp_masquerade::cases,
    ptp_check::cases,
    ptp_leftovers::cases,
    tuning::cases,
    tuning_sysctl::cases,
    tuning_check::cases,
    tuning_backup::cases,
    examples::cases,
    docker::cases,
    uplink::cases,
    ready::cases,
    routes::cases,
    unusable::cases,
    privileges::cases,
    conformance::cases,
    waits::cases,
    exhausted::cases,
];

/// The directory under test; without one the suite ends, which is a failure only if it was asked for.
fn directory() -> Result<PathBuf, ExitCode> {
    let given = std::env::var_os("CNI_TEST_DIR").map(PathBuf::from);
    let dir = given.clone().unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bin")));
    dir.canonicalize().ok().filter(|d| d.is_dir()).ok_or_else(|| {
        println!("no directory {} to test: run hack/build.sh, or set CNI_TEST_DIR", dir.display());
        if given.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}
