//! What should be there, and what of it has to be done, as data.

use std::collections::HashMap;
use std::collections::hash_map;

use super::comment::holder;
use super::element::{Element, Found, SetId, Value};
use super::error::NftError;
use super::frame::{Chain, Frame, TableId};

/// What should be there.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Whole tables, created if something in them is missing.
    pub(super) frames: Vec<Frame>,
    /// Chains that several owners share, created if missing.
    pub(super) chains: Vec<(TableId, Chain)>,
    /// Chains of a single owner, whose rules are made these and no others.
    pub(super) own_chains: Vec<(TableId, Chain)>,
    pub(super) elements: Vec<Element>,
    /// The owners of `elements`, for the index.
    pub(super) owners: Vec<Registration>,
}

impl Plan {
    /// Drops elements that are there twice; two different values for one key are a contradiction.
    pub(super) fn deduplicate(&mut self) -> Result<(), NftError> {
        let mut seen: HashMap<(SetId, Vec<u8>), Value> = HashMap::new();
        let mut twice = None;
        self.elements.retain(|element| match seen.entry((element.set, element.key.clone())) {
            hash_map::Entry::Vacant(place) => {
                place.insert(element.value.clone());
                true
            }
            hash_map::Entry::Occupied(first) => {
                if *first.get() != element.value && twice.is_none() {
                    twice = Some(element.name.clone());
                }
                false
            }
        });
        twice.map_or(Ok(()), |thing| Err(NftError::Twice { thing }))
    }
}

/// Somebody else has what a plan wants.
#[derive(Debug)]
pub(super) struct Held {
    /// What it is.
    pub(super) thing: String,
    /// Where.
    pub(super) table: TableId,
    /// The comment of the holder's element.
    pub(super) comment: String,
}

/// Why a plan could not be carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// At least one of these.
    Held(Vec<Held>),
    Other(NftError),
}

impl From<NftError> for Failure {
    fn from(error: NftError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for NftError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(error) => error,
            Failure::Held(held) => {
                held.into_iter().next().map_or(Self::Contended { what: "add the rules".into(), attempts: 1 }, |held| {
                    Self::HeldBy { thing: held.thing, holder: holder(&held.comment) }
                })
            }
        }
    }
}

/// What of a plan's shared part is not there.
#[derive(Default)]
pub(super) struct Missing<'a> {
    pub(super) frames: Vec<&'a Frame>,
    pub(super) chains: Vec<&'a (TableId, Chain)>,
    /// Chains for others, of frames that are missing: whatever emptied the frame has emptied these too.
    pub(super) others: Vec<(TableId, Chain)>,
    /// Tables of the plan that the kernel keeps and asks nothing.
    pub(super) dormant: Vec<TableId>,
}

/// What of a plan has to be sent.
pub(super) struct Todo<'a> {
    pub(super) missing: Missing<'a>,
    pub(super) own_chains: &'a [(TableId, Chain)],
    pub(super) create: Vec<&'a Element>,
    /// Entries of the index, and claims.
    pub(super) further: Vec<Element>,
    /// Elements of the same owner that have another value or are no longer wanted, to be deleted first.
    pub(super) delete: Vec<(SetId, Vec<u8>)>,
    /// What of `delete` the owners no longer want.
    pub(super) withdrawn: Vec<(SetId, Found)>,
    /// The generation of the rule set for which this holds, if it does not hold for all.
    pub(super) generation: Option<u32>,
}

impl<'a> Todo<'a> {
    /// On the assumption that of the owners nothing is there.
    pub(super) fn everything(plan: &'a Plan) -> Self {
        let count = |owner: &Registration| plan.elements.iter().filter(|element| owner.counts(element)).count();
        Self {
            missing: Missing::default(),
            own_chains: &plan.own_chains,
            create: plan.elements.iter().collect(),
            further: plan.owners.iter().map(|owner| owner.element(count(owner))).collect(),
            delete: Vec::new(),
            withdrawn: Vec::new(),
            generation: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let frame = self.missing.frames.is_empty() && self.missing.chains.is_empty() && self.own_chains.is_empty();
        frame && self.create.is_empty() && self.further.is_empty() && self.delete.is_empty()
    }
}

/// An owner that a plan registers in a table.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) set: SetId,
    pub(super) key: Vec<u8>,
    pub(super) comment: String,
    pub(super) name: String,
    pub(super) link: u32,
}
