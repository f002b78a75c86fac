//! Prints what directories of plugins do with the specification's requirements, as tables.
//!
//! `conformance full|summary|reasons NAME=FILE...`; a file is what the suite wrote with `CNI_TEST_FINDINGS`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints")]

use std::process::ExitCode;

use cni_tests::conformance::{Findings, reasons, summary, table};

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_default();
    let columns = args.map(|arg| column(&arg)).collect::<Result<Vec<_>, _>>()?;
    match kind.as_str() {
        "full" => Ok(table(&columns)),
        "summary" => Ok(summary(&columns)),
        "reasons" => Ok(columns.first().map(|(_, ours)| reasons(ours)).unwrap_or_default()),
        other => Err(format!("usage: conformance full|summary|reasons NAME=FILE..., not {other:?}")),
    }
}

fn column(arg: &str) -> Result<(String, Findings), String> {
    let (name, file) = arg.rsplit_once('=').ok_or_else(|| format!("{arg:?} is not NAME=FILE"))?;
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    Ok((name.to_owned(), Findings::parse(&text).map_err(|e| format!("{file}: {e}"))?))
}
