//! `why [--json] [--probe] [--udp|--sctp] [-6] FROM TO[:PORT]`: what keeps a packet away. Exits 0 if it arrives or leaves, 1 if
//! something stops it or that isn't sure, 2 if there is no answer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::process::ExitCode;

use cni_plugin::{Family, Protocol};
use cni_reach::{Question, Verdict};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (options, places): (Vec<&str>, Vec<&str>) = words.iter().map(String::as_str).partition(|w| w.starts_with('-'));
    let [from, to] = places.as_slice() else {
        eprintln!("usage: why [--json] [--probe] [--udp|--sctp] [-6] FROM TO[:PORT]");
        return ExitCode::from(2);
    };
    match ask(&options, from, to) {
        Ok(verdict) => ExitCode::from(u8::from(!matches!(verdict, Verdict::Arrives | Verdict::Leaves))),
        Err(error) => {
            eprintln!("why: {error}");
            ExitCode::from(2)
        }
    }
}

fn ask(options: &[&str], from: &str, to: &str) -> Result<Verdict, cni_reach::ReachError> {
    let mut question = Question::new(from, to)?;
    if options.contains(&"--udp") {
        question.protocol = Protocol::Udp;
    }
    if options.contains(&"--sctp") {
        question.protocol = Protocol::Sctp;
    }
    question.family = options.contains(&"-6").then_some(Family::V6);
    let answer = cni_reach::why(&question)?;
    if options.contains(&"--json") {
        println!("{}", answer.to_json());
    } else {
        print!("{answer}");
    }
    if options.contains(&"--probe") {
        let probe = cni_reach::probe(&question)?;
        println!("probe: {}", probe.outcome);
        probe.trace.iter().for_each(|line| println!("  {line}"));
    }
    Ok(answer.verdict)
}
