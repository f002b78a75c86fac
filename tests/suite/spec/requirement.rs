//! A requirement of the specification: the sentence, whom it binds, and the proof.

use cni_tests::conformance::Sentence;

use super::subject::Subject;
use cni_tests::plugins::VERSIONS;

/// Plugins that make the container's interface, or move one there.
pub(super) const INTERFACE: [&str; 8] = ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap"];
/// Those of them whose interface has its other end on the node, and which can masquerade for it.
pub(super) const VETH: [&str; 2] = ["bridge", "ptp"];
/// Plugins that change what another one made.
pub(super) const CHAINED: [&str; 6] = ["portmap", "firewall", "tuning", "bandwidth", "sbr", "vrf"];
/// Delegated plugins.
pub(super) const IPAM: [&str; 3] = ["host-local", "static", "dhcp"];
/// Plugins that can know that they can't serve an ADD.
pub(super) const CAN_BE_UNABLE: [&str; 11] =
    ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap", "host-local", "portmap", "firewall"];
/// All of them.
pub(super) const ALL: [&str; 18] = [
    "bridge",
    "ptp",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "loopback",
    "host-local",
    "static",
    "dhcp",
    "portmap",
    "firewall",
    "tuning",
    "bandwidth",
    "sbr",
    "vrf",
];

/// One sentence of SPEC.md.
#[derive(Clone)]
pub(super) struct Requirement {
    /// The theme that it is in: the name of its file.
    theme: &'static str,
    /// `must_…` or `should_…`.
    name: &'static str,
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
        name: &'static str,
        says: &'static str,
        plugins: &'static [&'static str],
        proof: fn(&Subject<'_>),
    ) -> Requirement {
        let [since, .., until] = VERSIONS;
        Requirement { theme: "", name, section: self.0, level: "MUST", says, since, until, plugins, known: None, proof }
    }

    /// What a plugin should do, in every version unless said otherwise.
    pub(super) fn should(
        &self,
        name: &'static str,
        says: &'static str,
        plugins: &'static [&'static str],
        proof: fn(&Subject<'_>),
    ) -> Requirement {
        Requirement { level: "SHOULD", ..self.must(name, says, plugins, proof) }
    }
}

impl Requirement {
    /// The same in a theme.
    pub(super) fn of(self, theme: &'static str) -> Self {
        Self { theme, ..self }
    }

    /// `theme::must_…` or `theme::should_…`.
    pub(super) fn id(&self) -> String {
        format!("{}::{}", self.theme, self.name)
    }

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
        let [section, level, says, known] = [self.section, self.level, self.says, known].map(str::to_owned);
        Sentence { id: self.id(), section, level, versions, says, known }
    }
}
