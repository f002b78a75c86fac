//! Legacy iptables beside something newer. Its tables are out of netlink's reach, so that only its own tools can tell
//! whether they drop, and make them accept. Where there are none, nobody can know, and nothing is said or done.

use cni_plugin::Difference;

use super::error::IptablesError;
use super::firewall_rules as rules;
use super::rules::{Rule, Script};
use super::tool::{Family, Variant, concurrently, find, restore_with};
use super::{all, flatten};

/// Accepts at the head of legacy `FORWARD` what has the bit `mark`, in those of `families` whose legacy table exists.
/// Idempotent.
pub(crate) fn accept_marked(families: &[Family], mark: u32, comment: &str) -> Result<(), IptablesError> {
    all(concurrently(&in_use(families), |family| {
        let Some(tool) = tool(family) else { return Ok(()) };
        let rule = marked(mark, comment);
        match restore_with(&tool, &block(|script| script.check(&rule))?) {
            Err(error) if error.is_refusal() => restore_with(&tool, &block(|script| script.insert(&rule))?).map(drop),
            outcome => outcome.map(drop),
        }
    }))
    .map(drop)
}

/// The rule of [`accept_marked`], where it is missing.
pub(crate) fn check_marked(families: &[Family], mark: u32, comment: &str) -> Result<Vec<Difference>, IptablesError> {
    flatten(concurrently(&in_use(families), |family| {
        let Some(tool) = tool(family) else { return Ok(Vec::new()) };
        let rule = marked(mark, comment);
        match restore_with(&tool, &block(|script| script.check(&rule))?) {
            Err(error) if error.is_refusal() => {
                let thing = format!("{}-legacy -t {} {rule}", family.command(), rules::TABLE);
                Ok(vec![Difference::missing(thing)])
            }
            outcome => outcome.map(|_| Vec::new()),
        }
    }))
}

/// The legacy chains whose policy drops what the tools in PATH, which are not legacy, accept elsewhere.
pub(crate) fn obstacles(families: &[Family]) -> Result<Vec<Difference>, IptablesError> {
    flatten(concurrently(&in_use(families), |family| {
        let Some(tool) = tool(family) else { return Ok(Vec::new()) };
        let listing = restore_with(&tool, &block(|script| script.list(rules::FORWARD))?)?;
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

fn tool(family: Family) -> Option<String> {
    let legacy = format!("{}-legacy-restore", family.command());
    let default = || is_default().then(|| format!("{}-restore", family.command()));
    find(&legacy).is_ok().then_some(legacy).or_else(default)
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
