//! What CHECK reports: one thing of the plan that the node doesn't have as it should.

use std::fmt;

use crate::protocol::error::CniError;

/// One difference between the plan and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The thing, as an operator would look for it: `route default via 10.0.0.1 dev eth0`.
    pub thing: String,
    /// What the plan says about it: `mtu 1400`, `present`.
    pub expected: String,
    /// What was found instead: `mtu 1500`, `nothing`.
    pub found: String,
}

impl Difference {
    /// `thing` should be as `expected` says, and is as `found` says.
    pub fn new(thing: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { thing: thing.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// `thing` should exist and doesn't.
    pub fn missing(thing: impl fmt::Display) -> Self {
        Self::new(thing, "present", "nothing")
    }

    /// True for a thing that isn't there; false for one that is another than it should be.
    pub fn is_missing(&self) -> bool {
        self.found == "nothing"
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.thing, self.expected, self.found)
    }
}

/// CHECK's verdict: an error that names every difference, if there is one; the first in its message, the others in its
/// details, as runtimes print both.
pub fn verdict(differences: &[Difference]) -> Result<(), CniError> {
    let Some((first, others)) = differences.split_first() else { return Ok(()) };
    if others.is_empty() {
        return Err(CniError::plugin(first.to_string()));
    }
    let rest: Vec<String> = others.iter().map(Difference::to_string).collect();
    Err(CniError::plugin(format!("{first} (and {} more)", rest.len())).details(rest.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named_once() {
        let differences = [Difference::missing("a"), Difference::missing("b"), Difference::missing("c")];
        let verdict_on = |count: usize| verdict(&differences[..count]).map_err(|error| (error.msg, error.details));
        assert_eq!(verdict_on(0), Ok(()));
        assert_eq!(verdict_on(1), Err(("a: expected present, found nothing".into(), String::new())));
        let rest = "b: expected present, found nothing; c: expected present, found nothing";
        assert_eq!(verdict_on(3), Err(("a: expected present, found nothing (and 2 more)".into(), rest.into())));
    }
}
