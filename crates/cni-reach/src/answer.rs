//! What is answered: for people in a few lines, for programs as JSON.

use std::fmt;

use serde_json::{Value, json};

/// What keeps a packet away, or may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// A namespace has no link.
    NoLink,
    /// A link is down.
    LinkDown,
    /// A link is up and its other end isn't.
    NoCarrier,
    /// No address of the family.
    NoAddress,
    /// IPv6 is switched off.
    Ipv6Disabled,
    /// No route, or one that refuses.
    NoRoute,
    /// `ip_forward` and the like are off.
    ForwardingOff,
    /// Reverse path filtering.
    RpFilter,
    /// The source is an address of the receiver itself.
    OwnAddress,
    /// 127.0.0.0/8 or ::1 on another link than `lo`.
    Loopback,
    /// A rule, or a chain's policy, drops it.
    Rule,
    /// The drop is an ingress policy of the plugin `firewall`.
    IngressPolicy,
    /// The guard of 127.0.0.0/8.
    Guard,
    /// The source MAC address isn't the container's (`macspoofchk`).
    MacSpoof,
    /// Both bridge ports are isolated.
    PortIsolation,
    /// It would leave by the bridge port that it came by.
    NoHairpin,
    /// A bridge port doesn't forward.
    PortState,
    /// A bridge port isn't in the VLAN.
    Vlan,
    /// Too large for a link, and the sender gets no error.
    Mtu,
    /// Nobody has the next hop's address.
    NeighbourUnresolved,
    /// The next hop's MAC address is nobody's, or another one's.
    NeighbourWrong,
    /// A macvlan or ipvlan and the link below it don't talk to each other.
    Parent,
    /// A link that leads nowhere.
    DeadEnd,
    /// The node's port isn't published.
    NotPublished,
    /// It is published on another address.
    PublishedOnAnotherAddress,
    /// It is published for another protocol.
    PublishedForAnotherProtocol,
    /// No program listens on the port.
    NobodyListens,
    /// A program listens on the port of another address.
    ListensElsewhere,
    /// The answer has no way back to the address that the packet came from.
    NoWayBack,
    /// The answer comes from another address than the one that was asked.
    WrongSource,
    /// Rules send it round and round.
    Loop,
}

impl Cause {
    /// True if a rule decides it, or the absence of one: then a rule that wasn't understood may decide otherwise.
    pub(crate) fn is_of_rules(self) -> bool {
        matches!(
            self,
            Self::Rule
                | Self::IngressPolicy
                | Self::MacSpoof
                | Self::NotPublished
                | Self::PublishedOnAnotherAddress
                | Self::PublishedForAnotherProtocol
                | Self::NobodyListens
                | Self::NoWayBack
        )
    }

    /// As JSON names it.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoLink => "no-link",
            Self::LinkDown => "link-down",
            Self::NoCarrier => "no-carrier",
            Self::NoAddress => "no-address",
            Self::Ipv6Disabled => "ipv6-disabled",
            Self::NoRoute => "no-route",
            Self::ForwardingOff => "forwarding-off",
            Self::RpFilter => "rp-filter",
            Self::OwnAddress => "own-address",
            Self::Loopback => "loopback",
            Self::Rule => "rule",
            Self::IngressPolicy => "ingress-policy",
            Self::Guard => "guard",
            Self::MacSpoof => "mac-spoof",
            Self::PortIsolation => "port-isolation",
            Self::NoHairpin => "no-hairpin",
            Self::PortState => "port-state",
            Self::Vlan => "vlan",
            Self::Mtu => "mtu",
            Self::NeighbourUnresolved => "neighbour-unresolved",
            Self::NeighbourWrong => "neighbour-wrong",
            Self::Parent => "parent",
            Self::DeadEnd => "dead-end",
            Self::NotPublished => "not-published",
            Self::PublishedOnAnotherAddress => "published-on-another-address",
            Self::PublishedForAnotherProtocol => "published-for-another-protocol",
            Self::NobodyListens => "nobody-listens",
            Self::ListensElsewhere => "listens-elsewhere",
            Self::NoWayBack => "no-way-back",
            Self::WrongSource => "wrong-source",
            Self::Loop => "loop",
        }
    }
}

/// Where the packet's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At a program, and the answer comes back.
    Arrives,
    /// It leaves what can be seen from here, by a link of the node.
    Leaves,
    /// Something keeps it, or its answer, away.
    Stopped,
    /// It arrives unless a rule that wasn't understood decides otherwise.
    Unsure,
}

impl Verdict {
    /// As JSON names it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Arrives => "arrives",
            Self::Leaves => "leaves",
            Self::Stopped => "stopped",
            Self::Unsure => "unsure",
        }
    }
}

/// A part of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The namespace: `the node`, `container c1`.
    pub place: String,
    /// What happens there: `route: br0`, `dnat 192.0.2.1:8080 -> 10.88.0.2:80 by …`.
    pub what: String,
    /// True on the answer's way back.
    pub is_reply: bool,
}

/// Something that matters beside the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it may keep away, if it is one of the known causes.
    pub cause: Option<Cause>,
    /// In words.
    pub text: String,
}

/// The answer. `Display` is for people: the verdict first, then what to do about it, the way, and notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The packet as it was sent: `tcp 10.88.0.2 -> 192.0.2.1:8080`.
    pub packet: String,
    /// Where its way ends.
    pub verdict: Verdict,
    /// What stops it.
    pub cause: Option<Cause>,
    /// The verdict in a sentence.
    pub reason: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// The way.
    pub steps: Vec<Step>,
    /// What else matters, rules that were not understood among it.
    pub notes: Vec<Note>,
}

impl Answer {
    /// For programs: an object with `packet`, `verdict` (`arrives`, `leaves`, `stopped`, `unsure`), `cause` (null, or a code of
    /// [`Cause`]), `reason`, `advice` (null or text), `steps` (a list of `place`, `what`, `reply`) and `notes` (`cause`, `text`).
    pub fn to_json(&self) -> Value {
        let cause = |cause: Option<Cause>| cause.map(Cause::code);
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|step| json!({"place": step.place, "what": step.what, "reply": step.is_reply}))
            .collect();
        let notes: Vec<_> =
            self.notes.iter().map(|note| json!({"cause": cause(note.cause), "text": note.text})).collect();
        json!({
            "packet": self.packet,
            "verdict": self.verdict.code(),
            "cause": cause(self.cause),
            "reason": self.reason,
            "advice": self.advice,
            "steps": steps,
            "notes": notes,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Arrives => "yes",
            Verdict::Leaves => "as far as can be seen",
            Verdict::Stopped => "no",
            Verdict::Unsure => "perhaps",
        };
        writeln!(f, "{}: {word}: {}", self.packet, self.reason)?;
        if let Some(advice) = &self.advice {
            writeln!(f, "  do:   {advice}")?;
        }
        for (is_reply, title) in [(false, "way"), (true, "back")] {
            let way = way(&self.steps, is_reply);
            if !way.is_empty() {
                writeln!(f, "  {title:<5} {way}")?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {}", note.text))
    }
}

/// The steps of one direction on one line, a namespace's together.
fn way(steps: &[Step], is_reply: bool) -> String {
    let mut text = String::new();
    let mut place = "";
    for step in steps.iter().filter(|step| step.is_reply == is_reply) {
        let separator = match (text.is_empty(), step.place == place) {
            (true, _) => format!("{}: ", step.place),
            (false, true) => ", ".to_owned(),
            (false, false) => format!(" => {}: ", step.place),
        };
        text.push_str(&separator);
        text.push_str(&step.what);
        place = &step.place;
    }
    text
}
