//! Rules: created, listed and deleted; and whether a listed rule is one that was created.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, ExpressionAttribute, Expressions, Immediate, ListAttribute, Lookup, Meta, NfTablesMessage, Payload,
    RuleAttribute, RuleMessage,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::{print, user_data};
use crate::nftables::wire::{Batch, NftError, Raw, Socket, Table};

/// A rule: expressions that the kernel evaluates in order. Those of [`super::expression`] make them.
pub(crate) type Rule = Vec<Expressions>;

/// A rule as the kernel lists it.
#[derive(Debug, Default)]
pub(crate) struct ListedRule {
    pub(crate) chain: String,
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
    pub(crate) expressions: Rule,
}

impl ListedRule {
    /// `None` if the message is about something else.
    fn read(message: &Raw) -> Result<Option<Self>, NftError> {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode("a list of rules")? else {
            return Ok(None);
        };
        let mut listed = Self::default();
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Chain(name) => listed.chain = name,
                RuleAttribute::Handle(handle) => listed.handle = handle,
                RuleAttribute::UserData(bytes) => listed.comment = user_data::read_comment(&bytes),
                RuleAttribute::Expressions(list) => listed.expressions = list.into_iter().filter_map(data_of).collect(),
                _ => {}
            }
        }
        Ok(Some(listed))
    }

    /// True if `wanted` is among its expressions.
    pub(crate) fn has(&self, wanted: &Expressions) -> bool {
        self.expressions.iter().any(|listed| same_expression(wanted, listed))
    }
}

fn data_of(entry: ListAttribute<ExpressionAttribute>) -> Option<Expressions> {
    let ListAttribute::Element(attributes) = entry else { return None };
    attributes.into_iter().find_map(|a| if let ExpressionAttribute::Data(data) = a { Some(data) } else { None })
}

/// The rules of a chain, or of the whole table without one, in order and from one state of the rule set. None if there is no such
/// table or chain.
pub(crate) fn list(socket: &Socket, table: Table<'_>, chain: Option<&str>) -> Result<Vec<ListedRule>, NftError> {
    let what = format!("list the rules of {table} {}", chain.unwrap_or_default());
    socket.dump_state(what.trim_end(), &table.rules_request(chain), |rules: &mut Vec<ListedRule>, message| {
        rules.extend(ListedRule::read(&message)?);
        Ok(())
    })
}

/// Calls `visit` with the rules of a table that are in one of `chains` and have a comment. It never fails because the rule set keeps
/// changing; it may call `visit` with a rule more than once.
pub(crate) fn scan_commented(
    socket: &Socket,
    table: Table<'_>,
    chains: &[&str],
    mut visit: impl FnMut(ListedRule, &str),
) -> Result<(), NftError> {
    let what = format!("list the rules of {table}");
    socket.dump(&what, &table.rules_request(None), |message| {
        let rule = ListedRule::read(&message)?.filter(|rule| chains.contains(&rule.chain.as_str()));
        if let Some(mut rule) = rule
            && let Some(comment) = rule.comment.take()
        {
            visit(rule, &comment);
        }
        Ok(())
    })
}

fn place(table: Table<'_>, chain: &str) -> Vec<RuleAttribute> {
    vec![RuleAttribute::Table(table.name.to_owned()), RuleAttribute::Chain(chain.to_owned())]
}

fn expressions(rule: &[Expressions]) -> RuleAttribute {
    RuleAttribute::Expressions(rule.iter().cloned().map(Into::into).collect())
}

impl Table<'_> {
    /// A request for the rules of a chain or, without one, of the table.
    pub(crate) fn rules_request(self, chain: Option<&str>) -> NetfilterMessage {
        let mut attributes = vec![RuleAttribute::Table(self.name.to_owned())];
        attributes.extend(chain.map(|chain| RuleAttribute::Chain(chain.to_owned())));
        self.request(NfTablesMessage::GetRule(RuleMessage { attributes }))
    }
}

impl Batch {
    /// Adds the message that appends a rule to a chain.
    pub(crate) fn append_rule(&mut self, table: Table<'_>, chain: &str, rule: &[Expressions]) {
        let attributes = [place(table, chain), vec![expressions(rule)]].concat();
        let what = format!("add rule {table} {chain} {}", print::rule(table.family, rule));
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        self.push(table, what, NLM_F_CREATE | NLM_F_APPEND, message);
    }

    /// Adds the message that puts a rule with a comment behind the one with handle `behind`, or at the head of its chain.
    pub(crate) fn insert_rule(
        &mut self,
        table: Table<'_>,
        chain: &str,
        rule: &[Expressions],
        comment: &str,
        behind: Option<u64>,
    ) {
        let mut attributes = place(table, chain);
        attributes.extend([expressions(rule), RuleAttribute::UserData(user_data::comment(comment))]);
        attributes.extend(behind.map(RuleAttribute::Position));
        // Without NLM_F_APPEND it comes before the position, or first.
        let flags = NLM_F_CREATE | if behind.is_some() { NLM_F_APPEND } else { 0 };
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        self.push(table, format!("insert a rule into {table} {chain}"), flags, message);
    }

    /// Adds the message that deletes a rule.
    pub(crate) fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        let attributes = [place(table, chain), vec![RuleAttribute::Handle(handle)]].concat();
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        self.push(table, format!("delete rule {handle} of {table} {chain}"), 0, message);
    }

    /// Adds the message that deletes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes: place(table, chain) });
        self.push(table, format!("flush chain {table} {chain}"), 0, message);
    }
}

/// True if the listed rule is the wanted one; the kernel adds attributes with default values.
pub(crate) fn same(wanted: &[Expressions], listed: &[Expressions]) -> bool {
    wanted.len() == listed.len() && wanted.iter().zip(listed).all(|(wanted, listed)| same_expression(wanted, listed))
}

fn all_in<T: PartialEq>(wanted: &[T], listed: &[T]) -> bool {
    wanted.iter().all(|attribute| listed.contains(attribute))
}

fn same_expression(wanted: &Expressions, listed: &Expressions) -> bool {
    match (wanted, listed) {
        (Expressions::Bitwise(a), Expressions::Bitwise(b)) => all_in::<Bitwise>(a, b),
        (Expressions::Cmp(a), Expressions::Cmp(b)) => all_in::<Cmp>(a, b),
        (Expressions::Immediate(a), Expressions::Immediate(b)) => all_in::<Immediate>(a, b),
        (Expressions::Lookup(a), Expressions::Lookup(b)) => {
            // Flags say "not in the set": either both say so, or neither.
            all_in(a, b) && b.iter().all(|attribute| !matches!(attribute, Lookup::Flags(1..)) || a.contains(attribute))
        }
        (Expressions::Meta(a), Expressions::Meta(b)) => all_in::<Meta>(a, b),
        (Expressions::Payload(a), Expressions::Payload(b)) => all_in::<Payload>(a, b),
        (
            Expressions::Other { expression_type: name, attributes: a },
            Expressions::Other { expression_type: other, attributes: b },
        ) => name == other && all_in(a, b),
        _ => false,
    }
}
