//! The legacy variant of the iptables tools, whose rules `nft` does not show.

use std::path::Path;

use crate::{netns, verdict};

/// A `PATH` on which `iptables` and its companions are the legacy ones.
pub fn path() -> String {
    let dir = "/run/cni-test/legacy";
    std::fs::create_dir_all(dir).unwrap();
    for family in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            let target = format!("/usr/sbin/{family}-legacy{tool}");
            std::os::unix::fs::symlink(target, format!("{dir}/{family}{tool}")).unwrap();
        }
    }
    format!("{dir}:{}", std::env::var("PATH").unwrap())
}

/// Makes `iptables` and all that belongs to it the legacy variant, in the case's own mount namespace.
pub fn install() {
    if !Path::new("/usr/sbin/iptables-legacy").exists() || !Path::new("/etc/alternatives/iptables").exists() {
        verdict::skip("no iptables-legacy among alternatives here");
    }
    let script = "mkdir -p /run/cni-test && cp -a /etc/alternatives /run/cni-test/ && cd /run/cni-test/alternatives && \
                  for tool in iptables ip6tables; do for part in '' -save -restore; do \
                  ln -sf /usr/sbin/$tool-legacy$part $tool$part; done; done && \
                  mount --bind /run/cni-test/alternatives /etc/alternatives && iptables -V";
    let version = netns::sh(&["sh", "-c", script]);
    assert!(version.contains("legacy"), "{version}");
}
