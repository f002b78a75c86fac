//! Adding, deleting and listing rules.

use cni_plugin::Family;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::RuleMessage;

use super::Rule;
use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, Object, address_family, rtm};

const FEATURE: &str = "policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)";

impl Object for RuleMessage {
    const DESCRIBED_BY: &'static [u16] = &[rtm::NEWRULE];
}

impl Netlink {
    /// Adds the rule. Not idempotent: without a priority the kernel adds the same rule again, before the first one.
    ///
    /// # Errors
    /// [`NetError::Exists`] if the very same rule with this priority is there; [`NetError::Unsupported`] where the kernel has no policy routing;
    /// otherwise the kernel's.
    pub fn add_rule(&self, rule: &Rule) -> Result<(), NetError> {
        let operation = || Operation::AddRule { rule: rule.to_string() };
        match self.tell(rtm::NEWRULE, &rule.message(), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => {
                Err(NetError::Exists { operation: operation(), name: "this rule".to_owned() })
            }
            Err(failure) if failure.is(Errno::OPNOTSUPP) => {
                Err(NetError::Unsupported { operation: operation(), feature: FEATURE })
            }
            Err(failure) => Err(failure.during(self, operation())),
        }
    }

    /// Deletes the first rule that agrees with all that is given. Idempotent: false if there is none.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn delete_rule(&self, rule: &Rule) -> Result<bool, NetError> {
        match self.tell(rtm::DELRULE, &rule.message(), 0) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(Errno::NOENT) => Ok(false),
            Err(failure) => Err(failure.during(self, Operation::DeleteRule { rule: rule.to_string() })),
        }
    }

    /// The rules that send packets from a network to a table and ask for nothing else, in the kernel's order.
    ///
    /// # Errors
    /// [`NetError::Unsupported`] where the kernel has no policy routing for the family; otherwise the kernel's.
    pub fn rules(&self, family: Family) -> Result<Vec<Rule>, NetError> {
        let answers = self.dump_rules(family)?;
        Ok(answers.iter().filter_map(Rule::from_message).collect())
    }

    /// The tables that rules of any kind lead to.
    ///
    /// # Errors
    /// As [`Netlink::rules`].
    pub fn tables_of_rules(&self, family: Family) -> Result<Vec<u32>, NetError> {
        Ok(self.dump_rules(family)?.iter().map(super::table_of).collect())
    }

    fn dump_rules(&self, family: Family) -> Result<Vec<RuleMessage>, NetError> {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        match self.dump(rtm::GETRULE, &message) {
            Ok(answers) => Ok(answers),
            Err(failure) if failure.is(Errno::OPNOTSUPP) => {
                Err(NetError::Unsupported { operation: Operation::ListRules, feature: FEATURE })
            }
            Err(failure) => Err(failure.during(self, Operation::ListRules)),
        }
    }
}
