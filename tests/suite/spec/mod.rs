//! The specification's requirements, one case for each sentence and plugin; each case asks at every version that has the
//! sentence. SPEC.md is that of github.com/containernetworking/cni at the tags spec-v0.1.0 to spec-v1.1.0; what a sentence
//! says stands here in our own words.

mod add;
mod check;
mod config;
mod del;
mod delegation;
mod errors;
mod gc;
mod ipam;
mod parameters;
mod requirement;
mod result;
mod status;
mod subject;
mod version;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use cni_tests::conformance::{Findings, Verdict, summary, table};
use cni_tests::verdict::Stop;
use cni_tests::{Sandbox, verdict};

use crate::case::{Case, spec};
use requirement::Requirement;
use subject::Subject;

/// What was found out, by the requirement's name.
static FOUND: Mutex<BTreeMap<String, Vec<Verdict>>> = Mutex::new(BTreeMap::new());

/// A file of this folder, and its requirements.
type Theme = (&'static str, fn() -> Vec<Requirement>);

/// All of them, in the order of the table in docs/conformance.md.
fn requirements() -> Vec<Requirement> {
    let themes: [Theme; 12] = [
        ("config", config::requirements),
        ("parameters", parameters::requirements),
        ("errors", errors::requirements),
        ("add", add::requirements),
        ("del", del::requirements),
        ("check", check::requirements),
        ("status", status::requirements),
        ("version", version::requirements),
        ("gc", gc::requirements),
        ("delegation", delegation::requirements),
        ("result", result::requirements),
        ("ipam", ipam::requirements),
    ];
    let all = themes.into_iter().flat_map(|(theme, of)| of().into_iter().map(move |r| r.of(theme)));
    all.collect()
}

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let cases = requirements().into_iter().flat_map(|requirement| {
        let case = |plugin: &&'static str| {
            let (requirement, plugin) = (requirement.clone(), *plugin);
            spec(format!("{}::{plugin}", requirement.id()), move |sb| judge(sb, &requirement, plugin))
        };
        requirement.plugins.iter().map(case).collect::<Vec<_>>()
    });
    cases.collect()
}

/// Asks one plugin at each version, on a fresh node each time.
fn judge(sb: &Sandbox, requirement: &Requirement, plugin: &'static str) {
    let mut verdicts = Vec::new();
    let mut failures = String::new();
    let mut lacks = "none of its versions has the sentence".to_owned();
    for version in requirement.versions() {
        let ended = Sandbox::run(sb.dir(), |sb| {
            sb.needs(plugin, version);
            (requirement.proof)(&Subject { sb, plugin, version });
        });
        let met = match ended {
            Ok(()) => true,
            Err(Stop::Skip(reason)) => {
                lacks = reason;
                continue;
            }
            Err(Stop::Fail(text)) => {
                let _ = write!(failures, "\n  {version}: {text}");
                false
            }
        };
        verdicts.push(Verdict { plugin: plugin.to_owned(), version: version.to_owned(), met });
    }
    let none = verdicts.is_empty();
    FOUND.lock().unwrap().entry(requirement.id()).or_default().extend(verdicts);
    match requirement.known {
        _ if none => verdict::skip(format!("can't be asked: {lacks}")),
        Some(why) if !failures.is_empty() => verdict::skip(format!("not met, and known: {why}")),
        _ => assert!(failures.is_empty(), "{}{failures}", requirement.sentence().says),
    }
}

/// What the cases that ran have found out.
fn findings() -> Findings {
    let found = FOUND.lock().unwrap();
    let mut findings = Findings::default();
    for requirement in requirements() {
        // A filter may have left it out.
        let Some(mut verdicts) = found.get(&requirement.id()).cloned() else { continue };
        let place = |v: &Verdict| requirement.plugins.iter().position(|p| *p == v.plugin);
        verdicts.sort_by(|a, b| (place(a), &a.version).cmp(&(place(b), &b.version)));
        findings.add(requirement.sentence(), verdicts);
    }
    findings
}

/// Prints the tables, if any of these cases ran; with `CNI_TEST_FINDINGS` also writes that file, for `hack/conformance.sh`.
pub(crate) fn report(dir: &Path) -> std::io::Result<()> {
    if FOUND.lock().unwrap().is_empty() {
        return Ok(());
    }
    let findings = findings();
    if let Some(file) = std::env::var_os("CNI_TEST_FINDINGS") {
        return std::fs::write(file, findings.to_lines());
    }
    let columns = [(dir.display().to_string(), findings)];
    println!("\n{}\n{}", table(&columns), summary(&columns));
    Ok(())
}
