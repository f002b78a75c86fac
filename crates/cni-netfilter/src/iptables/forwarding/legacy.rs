//! xtables-legacy beside something newer. Its tables are out of netlink's reach, so that only its own tools can tell
//! whether they drop, and make them accept. Where there are none, there is no way to know, and nothing is reported or done.

use cni_plugin::{Difference, Family, IfName};

use super::{finds_all, list, plan, rules};
use crate::iptables::owned::{Skeleton, additions, change};
use crate::iptables::tool::{
    IptablesError, Place, Reading, Rule, Table, Tools, Variant, command, in_each, legacy_in_use,
};

/// What the nftables backend needs of legacy iptables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs<'a> {
    /// The families in which it needs that.
    pub(crate) families: &'a [Family],
    /// The bit by which it says that a packet is accepted, if that matters.
    pub(crate) mark: Option<u32>,
    /// Bridges with a policy of nftables.
    pub(crate) bridges: &'a [IfName],
    /// The comment on the rules.
    pub(crate) comment: &'a str,
}

impl Needs<'_> {
    /// The families whose legacy table exists, and those in which it is about to: where the tools in PATH are legacy, the
    /// Go plugin may make a policy there at any time.
    fn concerned(&self) -> Vec<Family> {
        if self.bridges.is_empty() || !is_default() { in_use(self.families) } else { self.families.to_vec() }
    }

    fn skeleton(&self) -> Skeleton {
        let chains = if self.bridges.is_empty() { &[][..] } else { &[rules::STAGE1, rules::STAGE2] };
        let apart = self.bridges.iter().flat_map(|bridge| apart(bridge.as_str(), self.comment));
        let rules = self.mark.map(|mark| marked(mark, self.comment)).into_iter().chain(apart);
        Skeleton {
            chains: chains.iter().map(|&chain| chain.to_owned()).collect(),
            rules: rules.map(|rule| (rule, Place::First)).collect(),
        }
    }

    fn make(&self, table: &mut Table) {
        self.skeleton().complete(table);
        plan::put_policies_first(table);
    }

    /// True if the tool finds it all, without reading the whole table.
    fn are_met(&self, tools: Tools) -> Result<bool, IptablesError> {
        let mut script = list(&[rules::FORWARD]);
        self.skeleton().require(&mut script);
        finds_all(tools, &script)
    }
}

/// Makes it so. Idempotent: usually one process a family, which finds everything in place.
pub(crate) fn add(needs: Needs<'_>) -> Result<(), IptablesError> {
    let outcomes = in_each(&needs.concerned(), |family| {
        let outcome = add_in(family, needs);
        // A kernel without legacy iptables has no policies in there.
        if legacy_in_use(family, rules::TABLE) { outcome } else { Ok(()) }
    });
    outcomes.map(drop)
}

fn add_in(family: Family, needs: Needs<'_>) -> Result<(), IptablesError> {
    let Some(tools) = Tools::legacy(family) else { return Ok(()) };
    if needs.are_met(tools)? { Ok(()) } else { change(|| Reading::of(tools, rules::TABLE), |table| needs.make(table)) }
}

/// What of [`add`] is missing.
pub(crate) fn check(needs: Needs<'_>) -> Result<Vec<Difference>, IptablesError> {
    let outcomes = in_each(&in_use(needs.families), |family| {
        let Some(tools) = Tools::legacy(family) else { return Ok(Vec::new()) };
        if needs.are_met(tools)? {
            return Ok(Vec::new());
        }
        let before = tools.save(rules::TABLE)?;
        let mut table = before.clone();
        needs.make(&mut table);
        let place = format!("{}-legacy -t {}", command(family), rules::TABLE);
        Ok(additions(table.changes().commands(), &before, &place))
    });
    Ok(outcomes?.concat())
}

/// Removes the rules with this comment that keep bridges apart, of those that `is_gone`. Idempotent.
pub(crate) fn remove(comment: &str, is_gone: impl Fn(&str) -> bool + Sync) -> Result<(), IptablesError> {
    let outcomes = in_each(&in_use(&Family::ALL), |family| {
        let Some(tools) = Tools::legacy(family) else { return Ok(()) };
        let of_gone = |rule: &&Rule| {
            let bridge = rule.value("-i").or(rule.value("-o"));
            rule.comment() == Some(comment) && bridge.is_some_and(&is_gone)
        };
        let release = |table: &mut Table| {
            let both = table.rules(rules::STAGE1).chain(table.rules(rules::STAGE2));
            let gone: Vec<Rule> = both.filter(of_gone).cloned().collect();
            gone.iter().for_each(|rule| table.delete(rule));
        };
        change(|| Reading::of(tools, rules::TABLE), release)
    });
    outcomes.map(drop)
}

/// The rules by which the Go plugin would keep a bridge apart.
fn apart(bridge: &str, comment: &str) -> [Rule; 2] {
    [
        Rule::commented(rules::STAGE1, &["-i", bridge, "!", "-o", bridge], comment, &["-j", rules::STAGE2]),
        Rule::commented(rules::STAGE2, &["-o", bridge], comment, &["-j", "DROP"]),
    ]
}

/// The rule that accepts what has the mark.
fn marked(mark: u32, comment: &str) -> Rule {
    Rule::commented(
        rules::FORWARD,
        &["-m", "mark", "--mark", &format!("{mark:#x}/{mark:#x}")],
        comment,
        &["-j", "ACCEPT"],
    )
}

/// The legacy chains whose policy drops what the tools in PATH, which are not legacy, accept elsewhere.
pub(crate) fn obstacles(families: &[Family]) -> Result<Vec<Difference>, IptablesError> {
    let outcomes = in_each(&in_use(families), |family| {
        let Some(tools) = Tools::legacy(family) else { return Ok(None) };
        let drops = tools.restore(&list(&[rules::FORWARD]))?.lines().any(|line| line == "-P FORWARD DROP");
        let thing = format!("chain {} of {}-legacy", rules::FORWARD, command(family));
        let expected = "a policy that lets through what is forwarded for containers";
        let found = "DROP, while the iptables tools in PATH are of the nft kind";
        Ok(drops.then(|| Difference::new(thing, expected, found)))
    });
    Ok(outcomes?.into_iter().flatten().collect())
}

/// True if the tools in PATH are legacy.
pub(crate) fn is_default() -> bool {
    Variant::of_path() == Some(Variant::Legacy)
}

fn in_use(families: &[Family]) -> Vec<Family> {
    families.iter().copied().filter(|family| legacy_in_use(*family, rules::TABLE)).collect()
}
