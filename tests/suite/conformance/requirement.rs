//! A requirement of the specification: the sentence, whom it binds, and the proof.

use cni_tests::conformance::Sentence;

use super::subject::Subject;
use crate::each::VERSIONS;

/// Plugins that make an interface.
pub(super) const INTERFACE: [&str; 2] = ["bridge", "ptp"];
/// Plugins that change what another one made.
pub(super) const CHAINED: [&str; 3] = ["portmap", "firewall", "tuning"];
/// Delegated plugins.
pub(super) const IPAM: [&str; 2] = ["host-local", "static"];
/// All of them.
pub(super) const ALL: [&str; 8] =
    ["bridge", "ptp", "loopback", "host-local", "static", "portmap", "firewall", "tuning"];

/// One sentence of SPEC.md.
#[derive(Clone)]
pub(super) struct Requirement {
    /// `verb::must_…` or `verb::should_…`.
    pub(super) id: &'static str,
    section: &'static str,
    level: &'static str,
    says: &'static str,
    since: &'static str,
    until: &'static str,
    /// The plugins that it binds.
    pub(super) plugins: &'static [&'static str],
    /// Why our own plugins don't do as asked, if they don't; the table says "not met" all the same.
    pub(super) known: Option<&'static str>,
    /// Panics unless the subject does as asked.
    pub(super) proof: fn(&Subject<'_>),
}

/// Requirements of one section of SPEC.md.
pub(super) struct Section(pub(super) &'static str);

impl Section {
    /// What a plugin must do, in every version unless said otherwise.
    pub(super) fn must(
        &self,
        id: &'static str,
        says: &'static str,
        plugins: &'static [&'static str],
        proof: fn(&Subject<'_>),
    ) -> Requirement {
        let [since, .., until] = VERSIONS;
        Requirement { id, section: self.0, level: "MUST", says, since, until, plugins, known: None, proof }
    }

    /// What a plugin should do, in every version unless said otherwise.
    pub(super) fn should(
        &self,
        id: &'static str,
        says: &'static str,
        plugins: &'static [&'static str],
        proof: fn(&Subject<'_>),
    ) -> Requirement {
        Requirement { level: "SHOULD", ..self.must(id, says, plugins, proof) }
    }
}

impl Requirement {
    /// The sentence came with this version of the specification.
    pub(super) fn since(self, since: &'static str) -> Self {
        Self { since, ..self }
    }

    /// This version of the specification was the last one with the sentence.
    pub(super) fn until(self, until: &'static str) -> Self {
        Self { until, ..self }
    }

    /// Ours don't do it, and why.
    #[allow(dead_code, reason = "there is none at present, and the tables have a place for it")]
    pub(super) fn known(self, why: &'static str) -> Self {
        Self { known: Some(why), ..self }
    }

    /// The versions that it can be asked at.
    pub(super) fn versions(&self) -> impl Iterator<Item = &'static str> {
        let (since, until) = (self.since, self.until);
        VERSIONS.into_iter().filter(move |v| *v >= since && *v <= until)
    }

    /// For reports.
    pub(super) fn sentence(&self) -> Sentence {
        let [_, .., newest] = VERSIONS;
        let versions = match (self.since, self.until) {
            (since, until) if since == until => since.to_owned(),
            (since, until) if until == newest => format!("from {since}"),
            (since, until) => format!("{since} to {until}"),
        };
        let known = self.known.unwrap_or_default();
        let [id, section, level, says, known] =
            [self.id, self.section, self.level, self.says, known].map(str::to_owned);
        Sentence { id, section, level, versions, says, known }
    }
}
