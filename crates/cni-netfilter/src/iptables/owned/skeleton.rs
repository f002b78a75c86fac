//! Chains and rules that all attachments share: created where they are missing, never removed.

use crate::iptables::tool::{Place, Rule, Script, Table};

/// The shared part of an intent's rules.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Skeleton {
    pub(crate) chains: Vec<String>,
    pub(crate) rules: Vec<(Rule, Place)>,
}

impl Skeleton {
    /// Adds what `table` lacks of it. A chain to which one of the rules leads exists, even if `table` doesn't list it.
    pub(crate) fn complete(&self, table: &mut Table) {
        let is_led_to = |chain: &str, table: &Table| {
            self.rules.iter().any(|(rule, _)| rule.target() == Some(chain) && table.has(rule))
        };
        for chain in &self.chains {
            if !is_led_to(chain, table) {
                table.create_missing(chain);
            }
        }
        for (rule, place) in &self.rules {
            if !table.has(rule) {
                table.add(rule.clone(), *place);
            }
        }
    }

    /// Makes `script` fail unless all of it is there.
    pub(crate) fn require(&self, script: &mut Script) {
        script.check(self.rules.iter().map(|(rule, _)| rule));
    }
}
