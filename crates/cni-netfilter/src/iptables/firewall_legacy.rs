//! Legacy iptables beside something newer. Its tables are out of netlink's reach, so that only its own tools can tell
//! whether they drop, and make them accept. Where there are none, nobody can know, and nothing is said or done.

use cni_plugin::{Difference, IfName};

use super::attach::again;
use super::error::IptablesError;
use super::firewall_model::Model;
use super::firewall_plan as plan;
use super::firewall_rules as rules;
use super::rules::{Rule, Script};
use super::save::Table;
use super::tool::{Family, Variant, concurrently, find, restore_with, save_with};
use super::{all, flatten};

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

    fn rules(&self) -> Vec<Rule> {
        let apart = self.bridges.iter().flat_map(|bridge| apart(bridge.as_str(), self.comment));
        self.mark.map(|mark| marked(mark, self.comment)).into_iter().chain(apart).collect()
    }

    fn make(&self, model: &mut Model) {
        for chain in if self.bridges.is_empty() { &[][..] } else { &[rules::STAGE1, rules::STAGE2] } {
            model.create_missing(chain);
        }
        for rule in self.rules() {
            if !model.has(&rule) {
                model.insert(rule);
            }
        }
        plan::put_policies_first(model);
    }
}

/// Makes it so. Idempotent: usually one process a family, which finds everything in place.
pub(crate) fn add(needs: Needs<'_>) -> Result<(), IptablesError> {
    all(concurrently(&needs.concerned(), |family| {
        let outcome = add_in(family, needs);
        // A kernel without legacy iptables has nobody's policies in there.
        if family.legacy_in_use(rules::TABLE) { outcome } else { Ok(()) }
    }))
    .map(drop)
}

fn add_in(family: Family, needs: Needs<'_>) -> Result<(), IptablesError> {
    let Some(tool) = tool(family) else { return Ok(()) };
    match restore_with(&tool.restore, &block(|script| bet(script, needs))?) {
        Ok(listing) if !plan::is_out_of_order(&Model::new(&Table::parse(&listing))) => return Ok(()),
        Err(error) if !error.is_refusal() => return Err(error),
        _ => {}
    }
    change(&tool, |model| needs.make(model))
}

fn bet(script: &mut Script, needs: Needs<'_>) {
    script.list(rules::FORWARD);
    needs.rules().iter().for_each(|rule| script.check(rule));
}

/// What of [`add`] is missing.
pub(crate) fn check(needs: Needs<'_>) -> Result<Vec<Difference>, IptablesError> {
    flatten(concurrently(&in_use(needs.families), |family| {
        let Some(tool) = tool(family) else { return Ok(Vec::new()) };
        let name = |rule: &Rule| format!("{}-legacy -t {} {rule}", family.command(), rules::TABLE);
        let before = match restore_with(&tool.restore, &block(|script| bet(script, needs))?) {
            Ok(listing) => Model::new(&Table::parse(&listing)).with_added(&needs.rules()),
            Err(error) if error.is_refusal() => Model::new(&save_with(&tool.save, rules::TABLE)?),
            Err(error) => return Err(error),
        };
        let missing = needs.rules().into_iter().filter(|rule| !before.has(rule));
        let mut differences: Vec<_> = missing.map(|rule| Difference::missing(name(&rule))).collect();
        if plan::is_out_of_order(&before) {
            let thing = format!("jump to {} of {}-legacy {}", rules::STAGE1, family.command(), rules::FORWARD);
            differences.push(Difference::new(thing, "in front of the accepts", "behind one"));
        }
        Ok(differences)
    }))
}

/// Removes the rules with this comment that keep bridges apart, of those that `is_gone`. Idempotent.
pub(crate) fn remove(comment: &str, is_gone: impl Fn(&str) -> bool + Sync) -> Result<(), IptablesError> {
    all(concurrently(&in_use(&Family::ALL), |family| {
        let Some(tool) = tool(family) else { return Ok(()) };
        change(&tool, |model| {
            let both = model.rules(rules::STAGE1).chain(model.rules(rules::STAGE2));
            let of_gone = |rule: &&Rule| {
                let bridge = rule.value("-i").or(rule.value("-o"));
                rule.comment() == Some(comment) && bridge.is_some_and(&is_gone)
            };
            let gone: Vec<Rule> = both.filter(of_gone).cloned().collect();
            gone.iter().for_each(|rule| model.delete(rule));
        })
    }))
    .map(drop)
}

/// Reads the table, plans and carries out, again if others acted in between.
fn change(tool: &Tool, change: impl Fn(&mut Model)) -> Result<(), IptablesError> {
    again(|| {
        let mut model = Model::new(&save_with(&tool.save, rules::TABLE)?);
        change(&mut model);
        if model.changes().is_empty() {
            return Ok(());
        }
        restore_with(&tool.restore, &model.script().finish()?).map(drop)
    })
}

/// The rules by which the Go plugin would keep a bridge apart.
fn apart(bridge: &str, comment: &str) -> [Rule; 2] {
    let rule = |chain, head: &[&str], target| {
        Rule::new(chain, head.iter().copied().chain(["-m", "comment", "--comment", comment, "-j", target]))
    };
    [
        rule(rules::STAGE1, &["-i", bridge, "!", "-o", bridge], rules::STAGE2),
        rule(rules::STAGE2, &["-o", bridge], "DROP"),
    ]
}

/// The legacy chains whose policy drops what the tools in PATH, which are not legacy, accept elsewhere.
pub(crate) fn obstacles(families: &[Family]) -> Result<Vec<Difference>, IptablesError> {
    flatten(concurrently(&in_use(families), |family| {
        let Some(tool) = tool(family) else { return Ok(Vec::new()) };
        let listing = restore_with(&tool.restore, &block(|script| script.list(rules::FORWARD))?)?;
        let drops = listing.lines().any(|line| line == "-P FORWARD DROP");
        let thing = format!("chain {} of {}-legacy", rules::FORWARD, family.command());
        let expected = "a policy that lets through what is forwarded for containers";
        Ok(drops
            .then(|| Difference::new(thing, expected, "DROP, while the iptables tools in PATH are of the nft kind"))
            .into_iter()
            .collect())
    }))
}

/// True if the tools in PATH are legacy.
pub(crate) fn is_default() -> bool {
    Variant::of_path() == Some(Variant::Legacy)
}

fn in_use(families: &[Family]) -> Vec<Family> {
    families.iter().copied().filter(|family| family.legacy_in_use(rules::TABLE)).collect()
}

/// The executables of the legacy variant.
struct Tool {
    restore: String,
    save: String,
}

fn tool(family: Family) -> Option<Tool> {
    let named = |variant: &str| {
        let name = |what: &str| format!("{}{variant}-{what}", family.command());
        Tool { restore: name("restore"), save: name("save") }
    };
    let legacy = named("-legacy");
    if find(&legacy.restore).is_ok() { Some(legacy) } else { is_default().then(|| named("")) }
}

fn marked(mark: u32, comment: &str) -> Rule {
    let mark = format!("{mark:#x}/{mark:#x}");
    Rule::new(rules::FORWARD, ["-m", "mark", "--mark", &mark, "-m", "comment", "--comment", comment, "-j", "ACCEPT"])
}

fn block(fill: impl FnOnce(&mut Script)) -> Result<String, IptablesError> {
    let mut script = Script::default();
    script.table(rules::TABLE);
    fill(&mut script);
    script.commit_and_finish()
}
