//! `why`: what keeps a packet away, and from where to where it goes otherwise.

use clap::Args;
use cni_plugin::{Family, Protocol};
use cni_reach::{Question, Verdict};

use crate::failure::Failure;
use crate::output;

/// Lines for people are as long at most.
const WIDTH: usize = 80;

/// Which packet.
#[derive(Debug, Args)]
pub struct Why {
    /// A container (ID, name, address, namespace's path), node or outside
    pub from: String,
    /// The same, or any address; with a port if it is about one
    #[arg(value_name = "TO[:PORT]")]
    pub to: String,
    /// UDP instead of TCP
    #[arg(long)]
    pub udp: bool,
    /// SCTP instead of TCP
    #[arg(long, conflicts_with = "udp")]
    pub sctp: bool,
    /// IPv6, where both are possible
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Send such a packet too, and print nft's trace of it
    #[arg(long)]
    pub probe: bool,
}

/// Prints the answer. Fails, silently, if the packet doesn't arrive, or that isn't sure.
pub fn why(wanted: &Why, as_json: bool) -> Result<(), Failure> {
    let mut question = Question::new(&wanted.from, &wanted.to)?;
    if wanted.udp {
        question.protocol = Protocol::Udp;
    } else if wanted.sctp {
        question.protocol = Protocol::Sctp;
    }
    question.family = wanted.ipv6.then_some(Family::V6);
    let answer = cni_reach::why(&question)?;
    let probe = if wanted.probe { Some(cni_reach::probe(&question)?) } else { None };
    if as_json {
        let mut object = answer.to_json();
        if let Some(probe) = &probe {
            object["probe"] = serde_json::json!({"outcome": probe.outcome.to_string(), "trace": probe.trace});
        }
        output::json(&object)?;
    } else {
        let mut text: String = answer.to_string().lines().map(wrapped).collect();
        if let Some(probe) = &probe {
            text.push_str(&format!("probe: {}\n", probe.outcome));
            probe.trace.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
        output::print(text.as_bytes())?;
    }
    match answer.verdict {
        Verdict::Arrives | Verdict::Leaves => Ok(()),
        _ => Err(Failure::printed()),
    }
}

/// The line in lines of at most [`WIDTH`] characters, as far as its words allow; those after the first are indented further.
fn wrapped(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let (mut text, mut length) = (" ".repeat(indent), indent);
    let mut first = true;
    for word in line.split_whitespace() {
        let size = word.chars().count();
        if !first && length + 1 + size > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent + 2));
            length = indent + 2;
        } else if !first {
            text.push(' ');
            length += 1;
        }
        first = false;
        text.push_str(word);
        length += size;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_between_words() {
        assert_eq!(wrapped("  short"), "  short\n");
        let long = format!("  way: {}", "container -> veth ".repeat(9));
        let text = wrapped(&long);
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    ") && !line.starts_with("     ")), "{text}");
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), long.split_whitespace().collect::<Vec<_>>());
    }
}
