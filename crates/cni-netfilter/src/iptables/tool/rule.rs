//! One rule as data, and its text as `iptables-save` prints it and `iptables-restore` reads it.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::Protocol;
use ipnetwork::IpNetwork;

use crate::nftables::OPAQUE;

/// `XT_MAX_COMMENT_LEN` is 256 with the terminating zero.
const COMMENT_MAX: usize = 255;

/// One rule: the chain it is in and the tool's arguments after the chain, in the order in which `iptables-save` prints
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: String,
    pub(crate) args: Vec<String>,
}

impl Rule {
    pub(crate) fn new<S: Into<String>>(chain: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self { chain: chain.to_owned(), args: args.into_iter().map(Into::into).collect() }
    }

    /// A rule with a comment between its matches and its target.
    pub(crate) fn commented(chain: &str, matches: &[&str], comment: &str, target: &[&str]) -> Self {
        Self::new(chain, [matches, &["-m", "comment", "--comment", comment], target].concat())
    }

    /// The same rule in another chain.
    pub(crate) fn in_chain(&self, chain: &str) -> Self {
        Self { chain: chain.to_owned(), args: self.args.clone() }
    }

    /// The same matches with a jump to `target`.
    pub(crate) fn with_target(&self, target: &str) -> Self {
        Self::new(&self.chain, self.args.iter().map(String::as_str).chain(["-j", target]))
    }

    /// The argument after `option`, if the rule has it.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == option)?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// The chain or target that the rule jumps to.
    pub(crate) fn target(&self) -> Option<&str> {
        self.value("-j")
    }

    /// The rule's comment.
    pub(crate) fn comment(&self) -> Option<&str> {
        self.value("--comment")
    }

    /// True if it was read over netlink and has a part that can't be read.
    pub(crate) fn is_opaque(&self) -> bool {
        self.args.iter().any(|arg| arg == OPAQUE)
    }

    /// True if the kernel would hold the same for both, however their addresses are written.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.chain == other.chain && (self.args == other.args || self.meaning() == other.meaning())
    }

    /// The chain and the arguments, as they follow the command in the restore format.
    pub(super) fn text(&self) -> String {
        let mut text = quoted(&self.chain);
        for arg in &self.args {
            text.push(' ');
            text.push_str(&quoted(arg));
        }
        text
    }

    /// The arguments in one spelling, which is equal for rules of a chain that are the same: addresses and protocols
    /// normalised, matches that match everything left out.
    pub(crate) fn meaning(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            let value = match out.last().map(String::as_str) {
                Some("-s" | "-d") => match arg.parse::<IpNetwork>() {
                    Ok(net) if net.prefix() == 0 && out.iter().rev().nth(1).is_none_or(|before| before != "!") => {
                        out.pop();
                        continue;
                    }
                    Ok(net) => network(net),
                    Err(_) => arg.clone(),
                },
                Some("-p") => {
                    Protocol::from_name_or_number(arg).map_or_else(|| arg.clone(), |protocol| protocol.to_string())
                }
                Some("--to-destination") => {
                    arg.parse::<SocketAddr>().map_or_else(|_| arg.clone(), |address| address.to_string())
                }
                _ => arg.clone(),
            };
            out.push(value);
        }
        out
    }
}

/// The rule as an operator would type it after `iptables -t <table>`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {}", self.text())
    }
}

/// Rules by their meaning, for the question whether one is among them.
#[derive(Debug, Default)]
pub(crate) struct RuleSet(HashSet<(String, Vec<String>)>);

impl RuleSet {
    pub(crate) fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        Self(rules.into_iter().map(|rule| (rule.chain.clone(), rule.meaning())).collect())
    }

    pub(crate) fn has(&self, rule: &Rule) -> bool {
        self.0.contains(&(rule.chain.clone(), rule.meaning()))
    }
}

/// `text` as one argument in the restore format: bare if that is safe, else in double quotes, in which a backslash
/// takes the next character literally.
pub(super) fn quoted(text: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:/[]!".contains(&b);
    if !text.is_empty() && text.bytes().all(bare) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// `text` as a rule's comment. What is longer than the kernel takes is cut as the Go plugin's is: it adds `...` to 253
/// bytes, and the tool then cuts the last point.
pub(crate) fn comment(text: &str) -> String {
    if text.len() <= COMMENT_MAX {
        return text.to_owned();
    }
    let mut end = COMMENT_MAX - 2;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}..", &text[..end])
}

/// `net` as iptables prints it, without host bits.
pub(crate) fn network(net: IpNetwork) -> String {
    format!("{}/{}", net.network(), net.prefix())
}

/// `address` alone as iptables prints it.
pub(crate) fn host(address: IpAddr) -> String {
    network(address.into())
}

/// First and last port of `80` or `8000:8099`, as the matches `--dport` and `--dports` have them.
pub(crate) fn port_numbers(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_quoted() {
        assert_eq!(quoted("--dport"), "--dport");
        assert_eq!(quoted("[fd00::2]:80"), "[fd00::2]:80");
        assert_eq!(quoted(""), r#""""#);
        assert_eq!(quoted(r#"name: "a\b""#), r#""name: \"a\\b\"""#);
        assert_eq!(quoted("#x"), r##""#x""##);
    }

    #[test]
    fn a_long_comment_is_cut_to_what_the_kernel_takes() {
        assert_eq!(comment(&"x".repeat(255)).len(), 255);
        let cut = comment(&"x".repeat(256));
        assert_eq!((cut.len(), cut.ends_with("x..")), (255, true));
        assert!(comment(&"é".repeat(200)).len() <= 255);
    }

    #[test]
    fn rules_are_compared_by_meaning() {
        let a = Rule::new("X", ["-s", "10.0.0.0/24", "-p", "tcp", "-j", "DNAT", "--to-destination", "[fd00:0::1]:80"]);
        let b = Rule::new("X", ["-s", "10.0.0.7/24", "-p", "6", "-j", "DNAT", "--to-destination", "[fd00::1]:80"]);
        assert!(a.same_as(&b) && RuleSet::of([&a]).has(&b));
        assert!(Rule::new("X", ["-s", "0.0.0.0/0", "-j", "Y"]).same_as(&Rule::new("X", ["-j", "Y"])));
        assert!(!Rule::new("X", ["!", "-s", "::/0", "-j", "Y"]).same_as(&Rule::new("X", ["!", "-j", "Y"])));
        assert!(!a.same_as(&a.in_chain("Y")) && !RuleSet::of([&a]).has(&a.in_chain("Y")));
    }
}
