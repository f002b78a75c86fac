//! Who may send VXLAN packets to this node, on a kernel without nf_tables: a rule in `raw` for each peer, since there may be no
//! ipset either. The other guard's documentation says why (`nftables/vxlan_peers.rs`).

use cni_plugin::{Difference, Family};

use super::owned::change;
use super::tool::{IptablesError, Place, Reading, Rule, Table, Tools, in_each};
use crate::intent::VxlanPeers;

const TABLE: &str = "raw";
const CHAIN: &str = "CNI-VXLAN";

fn enters() -> Rule {
    Rule::new("PREROUTING", ["-p", "udp", "-j", CHAIN])
}

/// The chain's rules: first who may send, then what is dropped.
fn rules(wanted: &[VxlanPeers], family: Family) -> Vec<Rule> {
    let to = |port: u16| ["-p", "udp", "-m", "udp", "--dport"].map(str::to_owned).into_iter().chain([port.to_string()]);
    let verdict = |verdict: &str| ["-j".to_owned(), verdict.to_owned()];
    let (mut returns, mut drops) = (Vec::new(), Vec::new());
    for VxlanPeers { port, peers } in wanted {
        for peer in peers.iter().filter(|peer| Family::of(**peer) == family) {
            let from = ["-s".to_owned(), format!("{peer}/{}", family.bits())];
            returns.push(Rule::new(CHAIN, from.into_iter().chain(to(*port)).chain(verdict("RETURN"))));
        }
        drops.push(Rule::new(CHAIN, to(*port).chain(verdict("DROP"))));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for rule in returns.into_iter().chain(drops) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Makes the chain of one family this.
fn arrange(table: &mut Table, wanted: &[Rule]) {
    if wanted.is_empty() {
        if table.has_chain(CHAIN) {
            table.remove_chains(&[CHAIN.to_owned()]);
        }
        return;
    }
    let found: Vec<Vec<String>> = table.rules(CHAIN).map(Rule::meaning).collect();
    if found != wanted.iter().map(Rule::meaning).collect::<Vec<_>>() {
        table.reset(CHAIN);
        wanted.iter().for_each(|rule| table.add(rule.clone(), Place::Last));
    }
    table.have_once(enters(), Place::First);
}

/// See [`crate::Netfilter::set_vxlan_peers`]. A family whose tools or table are missing has nothing to remove.
pub(super) fn set(wanted: &[VxlanPeers]) -> Result<(), IptablesError> {
    in_each(&Family::ALL, |family| {
        let rules = rules(wanted, family);
        let is_needed = wanted.iter().flat_map(|of| &of.peers).any(|peer| Family::of(*peer) == family);
        match change(|| Reading::of(Tools::of(family), TABLE), |table| arrange(table, &rules)) {
            Err(_) if !is_needed => Ok(()),
            outcome => outcome,
        }
    })
    .map(drop)
}

/// See [`crate::Netfilter::check_vxlan_peers`].
pub(super) fn check(wanted: &VxlanPeers) -> Result<Vec<Difference>, IptablesError> {
    let families = Family::among(wanted.peers.iter().copied());
    let missing = |family| {
        let table = Reading::of(Tools::of(family), TABLE)?.table;
        let rules = [vec![enters()], rules(std::slice::from_ref(wanted), family)].concat();
        let missing = rules.into_iter().filter(|rule| !table.has(rule));
        Ok(missing.map(|rule| Difference::missing(format!("iptables -t {TABLE} rule {rule}"))).collect::<Vec<_>>())
    };
    Ok(in_each(&families, missing)?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(before: &str, wanted: &[VxlanPeers]) -> String {
        let mut table = Table::parse(TABLE, before);
        arrange(&mut table, &rules(wanted, Family::V4));
        table.print()
    }

    #[test]
    fn peers_return_and_everyone_else_is_dropped() {
        let peers =
            |port, peers: &[&str]| VxlanPeers { port, peers: peers.iter().map(|peer| peer.parse().unwrap()).collect() };
        let two = [peers(4789, &["192.0.2.1", "2001:db8::1"]), peers(4789, &["192.0.2.1", "192.0.2.2"])];
        let text = arranged("*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", &two);
        for line in [
            "-A PREROUTING -p udp -j CNI-VXLAN",
            "-A CNI-VXLAN -s 192.0.2.1/32 -p udp -m udp --dport 4789 -j RETURN",
            "-A CNI-VXLAN -s 192.0.2.2/32 -p udp -m udp --dport 4789 -j RETURN",
            "-A CNI-VXLAN -p udp -m udp --dport 4789 -j DROP",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
        }
        assert!(text.find("RETURN") < text.find("DROP"), "{text}");
        assert_eq!(arranged(&text, &two), text);
        assert!(!arranged(&text, &[]).contains("CNI-VXLAN"));
    }
}
