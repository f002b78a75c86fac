//! Rules as data, and the text in which `iptables-restore` reads them.

use std::fmt;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::error::IptablesError;

/// `iptables-restore` reads lines into 10 240 bytes and takes what is beyond for the next line, so a longer line could
/// smuggle in a command. Well below that we refuse.
const LINE_MAX: usize = 8192;

/// `XT_MAX_COMMENT_LEN` is 256 with the terminating zero.
const COMMENT_MAX: usize = 255;

/// One rule: the chain it is in and the tool's arguments after the chain, in the order in which `iptables-save` prints
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) args: Vec<String>,
}

impl Rule {
    pub(super) fn new<S: Into<String>>(chain: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self { chain: chain.to_owned(), args: args.into_iter().map(Into::into).collect() }
    }

    /// The argument after `option`, if the rule has it.
    pub(super) fn value(&self, option: &str) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == option)?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// The chain or target that the rule jumps to.
    pub(super) fn target(&self) -> Option<&str> {
        self.value("-j")
    }

    /// The rule's comment.
    pub(super) fn comment(&self) -> Option<&str> {
        self.value("--comment")
    }

    /// True if the kernel would hold the same for both, however their addresses are written.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.chain == other.chain && self.meaning() == other.meaning()
    }

    /// The arguments in one spelling, which is equal for rules of a chain that are the same.
    pub(super) fn meaning(&self) -> Vec<String> {
        canonical(&self.args)
    }
}

/// The rule as an operator would type it after `iptables -t <table>`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {}", self.chain)?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// The arguments with addresses and protocols in one spelling, and without matches that match everything.
fn canonical(args: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(args.len());
    for arg in args {
        let option = out.last().map(String::as_str);
        let value = match option {
            Some("-s" | "-d") => match arg.parse::<IpNetwork>() {
                Ok(net) if net.prefix() == 0 && out.iter().rev().nth(1).is_none_or(|before| before != "!") => {
                    out.pop();
                    continue;
                }
                Ok(net) => format!("{}/{}", net.network(), net.prefix()),
                Err(_) => arg.clone(),
            },
            Some("-p") => match arg.as_str() {
                "6" => "tcp".to_owned(),
                "17" => "udp".to_owned(),
                "132" => "sctp".to_owned(),
                _ => arg.clone(),
            },
            Some("--to-destination") => {
                arg.parse::<SocketAddr>().map_or_else(|_| arg.clone(), |address| address.to_string())
            }
            _ => arg.clone(),
        };
        out.push(value);
    }
    out
}

/// `text` as one argument in the restore format: bare if that is safe, else in double quotes, in which a backslash
/// takes the next character literally.
fn quoted(text: &str) -> String {
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

/// `text` as a rule's comment: what is longer than the kernel takes is cut as the Go plugin's is, which adds `...` to 253
/// bytes, and then the tool takes the last point away.
pub(super) fn comment(text: &str) -> String {
    if text.len() <= COMMENT_MAX {
        return text.to_owned();
    }
    let mut end = COMMENT_MAX - 2;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}..", &text[..end])
}

/// The input of one `iptables-restore --noflush`: blocks of one table each. A block is applied as a whole or not at
/// all, and a refused block ends the run; both hold for either variant, `-C` and `-N` inside a block included.
#[derive(Debug, Default)]
pub(super) struct Script {
    lines: Vec<String>,
    refused: Option<IptablesError>,
}

impl Script {
    /// Opens a block of `table`, which [`Script::commit`] closes.
    pub(super) fn table(&mut self, table: &str) {
        self.push(format!("*{table}"));
    }

    pub(super) fn commit(&mut self) {
        self.push("COMMIT".to_owned());
    }

    /// Fails the block unless `rule` exists.
    pub(super) fn check(&mut self, rule: &Rule) {
        self.rule("-C", rule);
    }

    pub(super) fn append(&mut self, rule: &Rule) {
        self.rule("-A", rule);
    }

    /// Puts `rule` first in its chain.
    pub(super) fn insert(&mut self, rule: &Rule) {
        self.rule("-I", rule);
    }

    /// Fails the block unless `rule` exists.
    pub(super) fn delete(&mut self, rule: &Rule) {
        self.rule("-D", rule);
    }

    /// Fails the block if `chain` exists.
    pub(super) fn create(&mut self, chain: &str) {
        self.push(format!("-N {}", quoted(chain)));
    }

    /// Creates `chain`, or empties it.
    pub(super) fn create_or_flush(&mut self, chain: &str) {
        self.push(format!(":{} - [0:0]", quoted(chain)));
    }

    pub(super) fn flush(&mut self, chain: &str) {
        self.push(format!("-F {}", quoted(chain)));
    }

    /// Fails the block if `chain` isn't empty or something jumps to it.
    pub(super) fn delete_chain(&mut self, chain: &str) {
        self.push(format!("-X {}", quoted(chain)));
    }

    /// Makes the tool print `chain` in the form that [`super::save`] reads. Fails the block if there is no such chain.
    ///
    /// Has to come first in the block: the legacy variant can't print a jump to a chain created above it.
    pub(super) fn list(&mut self, chain: &str) {
        self.push(format!("-S {}", quoted(chain)));
    }

    fn rule(&mut self, command: &str, rule: &Rule) {
        let mut line = format!("{command} {}", quoted(&rule.chain));
        for arg in &rule.args {
            line.push(' ');
            line.push_str(&quoted(arg));
        }
        self.push(line);
    }

    fn push(&mut self, line: String) {
        let why = if line.contains(['\n', '\r', '\0']) {
            Some("line breaks and zero bytes are not allowed")
        } else if line.len() > LINE_MAX {
            Some("iptables-restore reads no lines as long as that")
        } else {
            None
        };
        match why {
            Some(why) => self.refuse(&line, why),
            None => self.lines.push(line),
        }
    }

    /// Makes [`Script::finish`] fail because of `value`.
    pub(super) fn refuse(&mut self, value: &str, why: &'static str) {
        let value = value.chars().take(80).collect();
        self.refused.get_or_insert(IptablesError::Unwritable { value, why });
    }

    /// How many lines there are so far.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// [`Script::commit`], then [`Script::finish`].
    pub(super) fn commit_and_finish(mut self) -> Result<String, IptablesError> {
        self.commit();
        self.finish()
    }

    /// The text, unless something in it couldn't be written.
    pub(super) fn finish(self) -> Result<String, IptablesError> {
        match self.refused {
            Some(error) => Err(error),
            None => Ok(self.lines.into_iter().map(|line| line + "\n").collect()),
        }
    }
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
    fn nothing_can_start_a_line_of_its_own() {
        for hostile in ["a\n-F", "a\r-F", "a\0b"] {
            let mut script = Script::default();
            script.append(&Rule::new("X", ["--comment", hostile]));
            assert!(matches!(script.finish(), Err(IptablesError::Unwritable { .. })), "{hostile:?}");
        }
        let mut script = Script::default();
        script.append(&Rule::new("X", ["--comment", &"x".repeat(10_300)]));
        assert!(script.finish().is_err());
    }

    #[test]
    fn a_long_comment_is_cut_to_what_the_kernel_takes() {
        assert_eq!(comment(&"x".repeat(255)).len(), 255);
        let cut = comment(&"x".repeat(256));
        assert_eq!((cut.len(), cut.ends_with("x..")), (255, true));
        assert!(comment(&"é".repeat(200)).len() <= 255);
    }

    #[test]
    fn equal_rules_are_told_by_meaning() {
        let a = Rule::new("X", ["-s", "10.0.0.0/24", "-p", "tcp", "-j", "DNAT", "--to-destination", "[fd00:0::1]:80"]);
        let b = Rule::new("X", ["-s", "10.0.0.7/24", "-p", "6", "-j", "DNAT", "--to-destination", "[fd00::1]:80"]);
        assert!(a.same_as(&b));
        assert!(Rule::new("X", ["-s", "0.0.0.0/0", "-j", "Y"]).same_as(&Rule::new("X", ["-j", "Y"])));
        assert!(!Rule::new("X", ["!", "-s", "::/0", "-j", "Y"]).same_as(&Rule::new("X", ["!", "-j", "Y"])));
        assert!(!a.same_as(&Rule { chain: "Y".to_owned(), ..a.clone() }));
    }
}
