//! What a directory of plugins does with the specification's requirements, as a file of lines and as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One requirement: a sentence of SPEC.md in our own short words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Its name in the suite, without the leading `spec::`.
    pub id: String,
    /// Where it stands in SPEC.md.
    pub section: String,
    /// `MUST` or `SHOULD`.
    pub level: String,
    /// The first and the last version of the specification in which it stands.
    pub versions: String,
    /// What it asks for.
    pub says: String,
    /// Why our own plugins don't do it; empty if they do.
    pub known: String,
}

/// What one plugin did with it at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The plugin's name.
    pub plugin: String,
    /// The configuration's version.
    pub version: String,
    /// True if it did as asked.
    pub met: bool,
}

/// All that was found out about one directory, requirement by requirement in the order of SPEC.md.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    rows: Vec<(Sentence, Vec<Verdict>)>,
}

impl Findings {
    /// Adds a requirement with what was found; an empty list says that it doesn't apply to the directory.
    pub fn add(&mut self, sentence: Sentence, verdicts: Vec<Verdict>) {
        self.rows.push((sentence, verdicts));
    }

    /// As lines of tab-separated fields, to be read by [`Self::parse`].
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for (s, verdicts) in &self.rows {
            let _ = writeln!(text, "{}\t{}\t{}\t{}\t{}\t{}", s.id, s.section, s.level, s.versions, s.says, s.known);
            for v in verdicts {
                let _ = writeln!(text, "\t{}\t{}\t{}", v.plugin, v.version, v.met);
            }
        }
        text
    }

    /// Reads what [`Self::to_lines`] wrote.
    ///
    /// # Errors
    /// The first line that isn't one of its.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut findings = Self::default();
        for line in text.lines() {
            let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            match (<[String; 6]>::try_from(fields.clone()), <[String; 4]>::try_from(fields)) {
                (Ok([id, section, level, versions, says, known]), _) => {
                    findings.add(Sentence { id, section, level, versions, says, known }, Vec::new());
                }
                (_, Ok([_, plugin, version, met])) => {
                    let (_, verdicts) = findings.rows.last_mut().ok_or("a verdict comes before any requirement")?;
                    verdicts.push(Verdict { plugin, version, met: met == "true" });
                }
                _ => return Err(format!("neither a requirement nor a verdict: {line:?}")),
            }
        }
        Ok(findings)
    }

    fn of(&self, id: &str) -> &[Verdict] {
        self.rows.iter().find(|(s, _)| s.id == id).map_or(&[], |(_, verdicts)| verdicts)
    }

    /// How many requirements of a level, in sections that start so, are met by all plugins and versions, of how many that apply.
    fn count(&self, section: &str, level: &str) -> (usize, usize) {
        let of_it = |s: &Sentence| s.level == level && s.section == section;
        let rows = self.rows.iter().filter(|(s, verdicts)| of_it(s) && !verdicts.is_empty());
        rows.fold((0, 0), |(met, all), (_, v)| (met + usize::from(v.iter().all(|v| v.met)), all + 1))
    }
}

/// The full table in Markdown: one row for each requirement, one column for each directory.
pub fn table(columns: &[(String, Findings)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let mut text =
        format!("| | what | where | in | {} |\n|---|---|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (s, _) in columns.first().map_or(&[][..], |(_, first)| &first.rows) {
        let cells: Vec<String> = columns.iter().map(|(_, findings)| cell(findings.of(&s.id))).collect();
        let _ = writeln!(
            text,
            "| {} | {}<br>`{}` | {} | {} | {} |",
            s.level,
            s.says,
            s.id,
            s.section,
            s.versions,
            cells.join(" | ")
        );
    }
    text
}

/// The short table: one row for each section, one column for each directory and level.
pub fn summary(columns: &[(String, Findings)]) -> String {
    let levels = ["MUST", "SHOULD"];
    let heads: Vec<String> =
        columns.iter().flat_map(|(name, _)| levels.map(|level| format!("{name}: {level}"))).collect();
    let mut text = format!("| section of SPEC.md | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    let mut sections: Vec<&str> = Vec::new();
    for (s, _) in columns.first().map_or(&[][..], |(_, first)| &first.rows) {
        if !sections.contains(&s.section.as_str()) {
            sections.push(&s.section);
        }
    }
    for section in sections {
        let counts = columns.iter().flat_map(|(_, f)| levels.map(|level| f.count(section, level)));
        let cells: Vec<String> =
            counts.map(|(met, all)| if all == 0 { "–".to_owned() } else { format!("{met} of {all}") }).collect();
        let _ = writeln!(text, "| {section} | {} |", cells.join(" | "));
    }
    text
}

/// Why this project's plugins fail the requirements that they fail, as a list in Markdown.
pub fn reasons(ours: &Findings) -> String {
    let mut text = String::new();
    for (s, verdicts) in &ours.rows {
        if !s.known.is_empty() && !verdicts.iter().all(|v| v.met) {
            let _ = writeln!(text, "* `{}`: {}.", s.id, s.known);
        }
    }
    if text.is_empty() { "* nothing at present.\n".to_owned() } else { text }
}

/// What one directory does with one requirement: `met`, `not met`, who doesn't meet it, or `–` where it can't be asked.
fn cell(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "–".to_owned();
    }
    let mut by_plugin: BTreeMap<&str, (Vec<&str>, usize)> = BTreeMap::new();
    for v in verdicts {
        let (missed, all) = by_plugin.entry(&v.plugin).or_default();
        *all += 1;
        if !v.met {
            missed.push(&v.version);
        }
    }
    if verdicts.iter().all(|v| v.met) {
        return "met".to_owned();
    }
    if by_plugin.values().all(|(missed, all)| missed.len() == *all) {
        return "**not met**".to_owned();
    }
    let missing = by_plugin.iter().filter(|(_, (missed, _))| !missed.is_empty()).map(|(plugin, (missed, all))| {
        if missed.len() == *all { (*plugin).to_owned() } else { format!("{plugin} ({})", missed.join(", ")) }
    });
    format!("**not met** by {}", missing.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(verdicts: &[(&str, &str, bool)]) -> Findings {
        let sentence = Sentence {
            id: "add::must_do".into(),
            section: "2 ADD".into(),
            level: "MUST".into(),
            versions: "0.4.0".into(),
            says: "does".into(),
            known: String::new(),
        };
        let verdict = |(plugin, version, met): &(&str, &str, bool)| Verdict {
            plugin: (*plugin).into(),
            version: (*version).into(),
            met: *met,
        };
        let mut findings = Findings::default();
        findings.add(sentence, verdicts.iter().map(verdict).collect());
        findings
    }

    #[test]
    fn lines_are_read_back() {
        let written = findings(&[("bridge", "0.4.0", true), ("ptp", "1.0.0", false)]);
        assert_eq!(Findings::parse(&written.to_lines()), Ok(written));
        assert!(Findings::parse("\tbridge\t1.0.0\ttrue").is_err());
        assert!(Findings::parse("half a line").is_err());
    }

    #[test]
    fn a_cell_names_who_and_when() {
        let of = |verdicts: &[(&str, &str, bool)]| cell(findings(verdicts).of("add::must_do"));
        assert_eq!(of(&[]), "–");
        assert_eq!(of(&[("bridge", "0.4.0", true), ("ptp", "0.4.0", true)]), "met");
        assert_eq!(of(&[("bridge", "0.4.0", false), ("ptp", "0.4.0", false)]), "**not met**");
        let mixed = of(&[
            ("bridge", "0.4.0", true),
            ("bridge", "1.0.0", false),
            ("ptp", "0.4.0", false),
            ("tuning", "0.4.0", true),
        ]);
        assert_eq!(mixed, "**not met** by bridge (1.0.0), ptp");
    }

    #[test]
    fn the_summary_counts_what_applies() {
        let columns = [("a".to_owned(), findings(&[("bridge", "0.4.0", true)])), ("b".to_owned(), findings(&[]))];
        assert!(summary(&columns).ends_with("| 2 ADD | 1 of 1 | – | – | – |\n"), "{}", summary(&columns));
    }
}
