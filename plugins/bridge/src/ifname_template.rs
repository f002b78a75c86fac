//! The name of the host's end of the pair, from a template.

use cni_attach::pair::PairError;
use cni_plugin::{IfName, NameError, Owner, sha512_hex};

/// How many names are tried where the template has a `{hash}`.
const ATTEMPTS: u32 = 10;
/// How much of the container's ID `{container}` stands for.
const CONTAINER: usize = 8;
/// How many hexadecimal digits `{hash}` stands for.
const HASH: usize = 8;

/// Why a template is refused.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Two containers would get the same name.
    #[error(
        "hostInterfaceName {0:?} must contain {{hash}} or {{container}}: otherwise two containers get the same name"
    )]
    SameForAll(String),
    /// A word in braces that means nothing.
    #[error("hostInterfaceName {template:?}: unknown word {{{word}}}: expected {{hash}}, {{container}} or {{ifname}}")]
    Unknown {
        /// As configured.
        template: String,
        /// What is between the braces.
        word: String,
    },
    /// The resulting name is not valid.
    #[error("hostInterfaceName {template:?} makes {name:?}: {source}")]
    Name {
        /// As configured.
        template: String,
        /// The result.
        name: String,
        /// The rule that it breaks.
        source: NameError,
    },
    /// No container gets a valid name.
    #[error("hostInterfaceName {template:?} can only make names like {name:?}: {source}")]
    NoName {
        /// As configured.
        template: String,
        /// The shortest result.
        name: String,
        /// The rule that it breaks.
        source: NameError,
    },
    /// All resulting names belong to other links.
    #[error("hostInterfaceName {template:?}: {taken}: {way_out}")]
    Taken {
        /// As configured.
        template: String,
        /// The names.
        taken: Box<PairError>,
        /// What to do about it.
        way_out: &'static str,
    },
}

/// A template without unknown words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// Refuses templates that can't work for any container.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.contains("{hash}") && !text.contains("{container}") {
            return Err(TemplateError::SameForAll(text.to_owned()));
        }
        let known = ["{hash}", "{container}", "{ifname}"];
        let rest = known.iter().fold(text.to_owned(), |rest, word| rest.replace(word, ""));
        if let Some((_, word)) = rest.split_once('{') {
            let word = word.split('}').next().unwrap_or_default().to_owned();
            return Err(TemplateError::Unknown { template: text.to_owned(), word });
        }
        let template = Self(text.to_owned());
        let name = template.filled(&"0".repeat(HASH), "c", "e");
        match name.parse::<IfName>() {
            Ok(_) => Ok(template),
            Err(source) => Err(TemplateError::NoName { template: template.0, name, source }),
        }
    }

    /// The error that says what to do about names that other links have.
    pub fn taken(&self, taken: PairError) -> TemplateError {
        let way_out = if self.0.contains("{hash}") {
            "delete the links that are not in use"
        } else {
            "add {hash}, or {ifname} if a container has two interfaces"
        };
        TemplateError::Taken { template: self.0.clone(), taken: Box::new(taken), way_out }
    }

    /// The names to try, in this order; several only where a `{hash}` can make a difference.
    pub fn names(&self, owner: &Owner) -> Result<Vec<IfName>, TemplateError> {
        let attempts = if self.0.contains("{hash}") { ATTEMPTS } else { 1 };
        (0..attempts).map(|salt| self.name(owner, salt)).collect()
    }

    fn name(&self, owner: &Owner, salt: u32) -> Result<IfName, TemplateError> {
        let id = owner.container_id.as_str();
        let hash = sha512_hex(&[&owner.key(), &salt.to_string()], HASH);
        let text = self.filled(&hash, id.get(..CONTAINER).unwrap_or(id), owner.ifname.as_str());
        let refused = |source| TemplateError::Name { template: self.0.clone(), name: text.clone(), source };
        text.parse().map_err(refused)
    }

    fn filled(&self, hash: &str, container: &str, ifname: &str) -> String {
        self.0.replace("{hash}", hash).replace("{container}", container).replace("{ifname}", ifname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_attach::pair;

    fn owner() -> Owner {
        Owner {
            network: "net".parse().unwrap(),
            container_id: "3f2a9c0d1b".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn first(template: &str) -> Result<String, String> {
        let names = Template::parse(template).and_then(|template| template.names(&owner()));
        names.map(|names| names[0].to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn words_are_replaced() {
        assert_eq!(first("c{container}").unwrap(), "c3f2a9c0d");
        assert_eq!(first("{ifname}-{container}").unwrap(), "eth0-3f2a9c0d");
        // The default as a template.
        assert_eq!(first("veth{hash}").unwrap(), pair::host_names(&owner()).next().unwrap().to_string());
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        assert!(first("eth-{ifname}").unwrap_err().contains("same name"));
        assert!(first("{nope}{hash}").unwrap_err().contains("{nope}"));
        let long = first("long-{container}-{ifname}").unwrap_err();
        assert!(long.contains("hostInterfaceName") && long.contains("15 bytes"), "{long}");
    }

    #[test]
    fn what_no_container_can_have_is_refused_without_one() {
        let refused = |template: &str| Template::parse(template).unwrap_err().to_string();
        let long = refused("abcdefghij{hash}");
        assert!(long.contains("hostInterfaceName \"abcdefghij{hash}\"") && long.contains("15 bytes"), "{long}");
        assert!(refused("a/{hash}").contains("'/'"));
        assert!(refused("v%d{container}").contains("'%'"));
        assert!(Template::parse("1234567890123{container}{ifname}").is_ok());
    }

    #[test]
    fn only_a_hash_gives_a_second_chance() {
        assert_eq!(Template::parse("v{hash}").unwrap().names(&owner()).unwrap().len(), 10);
        assert_eq!(Template::parse("v{container}").unwrap().names(&owner()).unwrap().len(), 1);
    }
}
