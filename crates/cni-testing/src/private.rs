//! Tests that change the kernel's network run once more as a process of their own, in network and mount namespaces of its own,
//! so that `cargo test` never changes the machine's.
//!
//! ```no_run
//! # fn make_a_bridge() {}
//! # /*
//! #[test]
//! fn a_bridge_is_made() {
//! # */
//!     cni_testing::private::run("a_bridge_is_made", || make_a_bridge());
//! # /*
//! }
//! # */
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::process::Command;

/// Says that this is the inner process, and which variant it runs. It is not believed: see [`assert_private`].
const INSIDE: &str = "CNI_TEST_INSIDE";

/// Runs `body`, which is all of the test called `name`, with an empty `/run` and `lo` up. Without root it says that it is
/// skipped.
///
/// # Panics
/// If `body` does; or if the inner process did not run the test.
pub fn run(name: &str, body: impl FnOnce()) {
    if is_inside() {
        prepare();
        body();
    } else if may_unshare(name) {
        again(name, "only", None);
    }
}

/// True in the inner process.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The variant that [`again`] was called with.
///
/// # Panics
/// Outside of the inner process.
pub fn variant() -> String {
    std::env::var(INSIDE).unwrap()
}

/// Makes the namespaces of the inner process usable, after a look that they are its own.
///
/// # Panics
/// If they are the machine's.
pub fn prepare() {
    assert_private();
    sh("mount -t tmpfs tmpfs /run && ip link set lo up");
}

/// True if this process is root; otherwise says that the test `name` is skipped.
pub fn may_unshare(name: &str) -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        eprintln!("{name}: skipped, it needs root for a network namespace");
    }
    root
}

/// Runs the test `name` of this executable again under unshare(1), as a variant, with another `PATH` if one is given.
///
/// # Panics
/// If it fails or does not run there; then with its output. Otherwise the output is dropped, because a reader of the totals would
/// count the test twice.
pub fn again(name: &str, variant: &str, path: Option<&str>) {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads", "1"]).env(INSIDE, variant);
    let inner = command.envs(path.map(|path| ("PATH", path))).output().unwrap();
    let text = format!("{}\n{}", String::from_utf8_lossy(&inner.stdout), String::from_utf8_lossy(&inner.stderr));
    assert!(inner.status.success(), "{name} ({variant}):\n{text}");
    assert!(text.contains("1 passed"), "{name} ({variant}) did not run: {text}");
}

/// Before anything is changed: both namespaces are other ones than the parent's, which started us through unshare(1), and no
/// link of the network is up, as in a new namespace only.
fn assert_private() {
    for kind in ["net", "mnt"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(of("thread-self"), of(&parent_id().to_string()), "not in a {kind} namespace of its own");
    }
    // Not as JSON: there iproute2 prints an empty object for each link that is filtered out.
    assert_eq!(sh("ip -o link show up"), "", "this network namespace is in use");
}

/// Runs a shell command that must succeed; what it printed.
///
/// # Panics
/// If it fails, with its output.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}
