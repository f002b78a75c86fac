//! Conditions of a mapping: the part of the nft language that describes packets by addresses, interfaces, ports and marks, as
//! expressions. Anything else is refused by name.
//!
//! ```text
//! ip saddr 10.0.0.0/8                 ip6 daddr != { fd00::/8, 2001:db8::1 }
//! iifname "eth0"    iifname != "wg*"  tcp sport 1024-65535    meta mark & 0xff == 0x1    meta l4proto { tcp, udp }
//! ```

use std::net::IpAddr;

use cni_plugin::{Family, Protocol};
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::nftables::{Expressions, MetaKey, Operator};

use crate::nftables::ruleset::data;
use crate::nftables::ruleset::expression::{self as expr, Side};
use crate::nftables::wire::{NftError, TableFamily};

/// So many rules may come of one list of conditions.
const RULES_MAX: usize = 64;

/// What holds if all of the expressions hold.
type All = Vec<Expressions>;

/// Compiles conditions, all of which must hold, for packets of a family: it is enough if one of the results holds.
pub(crate) fn compile(conditions: &[String], family: Family) -> Result<Vec<All>, NftError> {
    let text = conditions.join(" ");
    let words = words(&text);
    let mut parser = Parser { words: &words, family, text: &text };
    let mut any = vec![All::new()];
    while !parser.words.is_empty() {
        let condition = parser.condition()?;
        any = both(&any, &condition);
        if any.len() > RULES_MAX {
            return Err(parser.error(&words[0], "there are too many combinations of values"));
        }
    }
    // The same thing said twice is one rule.
    let is_first = |(at, all): &(usize, &All)| !any.iter().take(*at).any(|before| before == *all);
    Ok(any.iter().enumerate().filter(is_first).map(|(_, all)| all.clone()).collect())
}

/// What holds if one of `one` and one of `other` hold.
fn both(one: &[All], other: &[All]) -> Vec<All> {
    one.iter().flat_map(|a| other.iter().map(move |b| [a.as_slice(), b].concat())).collect()
}

/// Words between blanks; braces and commas are words, and quotes only keep together.
fn words(text: &str) -> Vec<String> {
    let spaced = text.replace('{', " { ").replace('}', " } ").replace(',', " , ");
    spaced.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect()
}

/// What is compared.
#[derive(Clone, Copy)]
enum Field {
    Address(Side),
    Interface(MetaKey),
    Port(Option<Protocol>, Side),
    Protocol,
    Mark(Option<u32>),
}

struct Parser<'a> {
    words: &'a [String],
    family: Family,
    text: &'a str,
}

impl<'a> Parser<'a> {
    fn error(&self, word: &str, why: &'static str) -> NftError {
        NftError::Condition { condition: self.text.to_owned(), word: word.to_owned(), why }
    }

    fn next(&mut self) -> Result<&'a str, NftError> {
        let (first, rest) = self.words.split_first().ok_or_else(|| self.error("", "it ends too early"))?;
        self.words = rest;
        Ok(first)
    }

    fn skip(&mut self, words: &[&str]) -> bool {
        let found = self.words.first().is_some_and(|word| words.contains(&word.as_str()));
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn condition(&mut self) -> Result<Vec<All>, NftError> {
        let field = self.field()?;
        let negated = self.skip(&["!=", "ne"]);
        if !negated {
            self.skip(&["==", "eq"]);
        }
        let mut values = Vec::new();
        if self.skip(&["{"]) {
            if self.skip(&["}"]) {
                return Err(self.error("{ }", "there is no value in it"));
            }
            while !self.skip(&["}"]) {
                values.push(self.next()?);
                self.skip(&[","]);
            }
        } else {
            values.push(self.next()?);
        }
        let mut compared = Vec::new();
        for value in values {
            compared.push(self.compare(field, value, negated)?);
        }
        let of_protocol = match field {
            Field::Port(Some(protocol), _) => vec![expr::protocol_is(protocol).to_vec()],
            _ => vec![All::new()],
        };
        let values = if negated {
            compared.iter().fold(vec![All::new()], |all, one| both(&all, one))
        } else {
            compared.concat()
        };
        Ok(both(&of_protocol, &values))
    }

    fn field(&mut self) -> Result<Field, NftError> {
        let word = self.next()?;
        match word {
            "ip" | "ip6" => {
                if word != TableFamily::from(self.family).to_string() {
                    return Err(self.error(word, "it is the other family's"));
                }
                let part = self.next()?;
                match part {
                    "saddr" => Ok(Field::Address(Side::Source)),
                    "daddr" => Ok(Field::Address(Side::Destination)),
                    "protocol" | "nexthdr" => Ok(Field::Protocol),
                    _ => Err(self.error(part, "of an address only saddr and daddr are supported")),
                }
            }
            "tcp" | "udp" | "sctp" | "th" => {
                let part = self.next()?;
                let side = match part {
                    "sport" => Side::Source,
                    "dport" => Side::Destination,
                    _ => return Err(self.error(part, "of a transport header only sport and dport are supported")),
                };
                Ok(Field::Port(Protocol::from_name_or_number(word), side))
            }
            "meta" => self.meta(),
            "iifname" => Ok(Field::Interface(MetaKey::Iifname)),
            "oifname" => Ok(Field::Interface(MetaKey::Oifname)),
            "iif" | "oif" => Err(self.error(word, "write iifname or oifname, which also know interfaces to come")),
            _ => Err(self.error(word, "ip, ip6, iifname, oifname, tcp, udp, sctp, th and meta are supported")),
        }
    }

    fn meta(&mut self) -> Result<Field, NftError> {
        let word = self.next()?;
        match word {
            "iifname" => Ok(Field::Interface(MetaKey::Iifname)),
            "oifname" => Ok(Field::Interface(MetaKey::Oifname)),
            "l4proto" => Ok(Field::Protocol),
            "mark" if self.skip(&["&", "and"]) => {
                let mask = self.next()?;
                Ok(Field::Mark(Some(mark(mask).ok_or_else(|| self.error(mask, "it is not a number of 32 bits"))?)))
            }
            "mark" => Ok(Field::Mark(None)),
            _ => Err(self.error(word, "of meta iifname, oifname, l4proto and mark are supported")),
        }
    }

    fn compare(&self, field: Field, value: &str, negated: bool) -> Result<Vec<All>, NftError> {
        let op = if negated { Operator::NotEqual } else { Operator::Equal };
        let one = |all: All| Ok(vec![all]);
        match field {
            Field::Address(side) => {
                let network: IpNetwork =
                    value.parse().map_err(|_| self.error(value, "it is not an address or prefix"))?;
                let address: IpAddr = network.network();
                if Family::of(address) != self.family {
                    return Err(self.error(value, "it is the other family's"));
                }
                let inside = expr::address_in(side, address, network.prefix());
                one(if negated { expr::negated(inside) } else { inside })
            }
            Field::Interface(key) => {
                let (name, whole) = value.strip_suffix('*').map_or((value, true), |start| (start, false));
                if name.is_empty() || name.len() > 15 {
                    return Err(self.error(value, "it is not the name of an interface"));
                }
                let bytes = if whole { data::interface(name) } else { name.as_bytes().to_vec() };
                one(vec![expr::meta(key, 0), expr::compare(op, bytes)])
            }
            Field::Protocol => {
                let wanted = Protocol::from_name_or_number(value)
                    .ok_or_else(|| self.error(value, "it is not tcp, udp or sctp"))?;
                one(vec![expr::meta(MetaKey::L4Proto, 0), expr::compare(op, [wanted.number()])])
            }
            Field::Mark(mask) => {
                let wanted = mark(value).ok_or_else(|| self.error(value, "it is not a number of 32 bits"))?;
                let mask = mask.map(|mask| expr::mask(mask.to_ne_bytes()));
                let load = [expr::meta(MetaKey::Mark, 0)].into_iter().chain(mask);
                one(load.chain([expr::compare(op, wanted.to_ne_bytes())]).collect())
            }
            Field::Port(_, side) => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                let port = |text: &str| text.parse::<u16>().map_err(|_| self.error(value, "it is not a port or a-b"));
                match (port(first)?, port(last)?) {
                    (first, last) if first > last => Err(self.error(value, "its first port is the greater one")),
                    (first, last) => Ok(ports(side, first, last, negated)),
                }
            }
        }
    }
}

fn ports(side: Side, first: u16, last: u16, negated: bool) -> Vec<All> {
    let is = |op, port: u16| expr::compare(op, port.to_be_bytes());
    let load = expr::port(side, 0);
    match (first == last, negated) {
        (true, false) => vec![vec![load, is(Operator::Equal, first)]],
        (true, true) => vec![vec![load, is(Operator::NotEqual, first)]],
        (false, false) => {
            vec![vec![load, is(Operator::GreatherThanEqual, first), is(Operator::LessThanEqual, last)]]
        }
        (false, true) => {
            vec![vec![load.clone(), is(Operator::LessThan, first)], vec![load, is(Operator::GreaterThan, last)]]
        }
    }
}

fn mark(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str, family: Family) -> Result<usize, String> {
        compile(&[text.to_owned()], family).map(|rules| rules.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_alternatives_unless_they_are_excluded() {
        assert_eq!(rules("ip saddr { 10.0.0.0/8, 192.0.2.1 } iifname { eth0, \"wg*\" }", Family::V4), Ok(4));
        assert_eq!(rules("ip saddr != {10.0.0.0/8,192.0.2.1} meta mark & 0xff == 0x1", Family::V4), Ok(1));
        assert_eq!(rules("tcp sport 1024-65535", Family::V6), Ok(1));
        assert_eq!(rules("tcp sport != 1-1023", Family::V6), Ok(2));
        assert_eq!(rules("", Family::V4), Ok(1));
        assert_eq!(rules("ip saddr { 192.0.2.0/24, 192.0.2.5/24 } tcp dport { 80, 80-80 }", Family::V4), Ok(1));
        let split = ["ip6 saddr".to_owned(), "fd00::/8".to_owned()];
        assert_eq!(
            compile(&split, Family::V6).map(|rules| rules.len()).unwrap_or_default(),
            1,
            "as the Go plugin joins them"
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, word) in [
            ("ct state new", "\"ct\""),
            ("ip ttl 3", "\"ttl\""),
            ("ip saddr fd00::1", "\"fd00::1\""),
            ("ip6 saddr fd00::1", "\"ip6\""),
            ("ip saddr @blocked", "\"@blocked\""),
            ("iif eth0", "\"iif\""),
            ("tcp dport http", "\"http\""),
            ("tcp dport 90-80", "\"90-80\""),
            ("meta skuid 0", "\"skuid\""),
            ("ip saddr", "ends too early"),
            ("ip saddr { 10.0.0.1", "ends too early"),
            ("iifname abcdefghijklmnop", "\"abcdefghijklmnop\""),
            ("drop", "\"drop\""),
            ("ip saddr { }", "\"{ }\""),
            ("ip saddr != {}", "\"{ }\""),
            ("ip saddr { , }", "\",\""),
        ] {
            let refused = rules(text, Family::V4).unwrap_err();
            assert!(refused.contains(word) && refused.contains(text), "{refused}");
        }
        let many =
            |n: u8| format!("ip saddr {{ {} }}", (0..n).map(|n| format!("10.0.0.{n}")).collect::<Vec<_>>().join(", "));
        assert_eq!(rules(&many(64), Family::V4), Ok(64));
        assert!(rules(&many(65), Family::V4).unwrap_err().contains("too many"));
    }
}
