//! Adding, finding and deleting queueing disciplines.

use std::fmt;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Nla};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::{Tbf, about};
use crate::errno::Errno;
use crate::error::{Failure, NetError, Operation};
use crate::netlink::{Netlink, rtm};

/// Where on a link a discipline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It orders what the link sends.
    Root,
    /// It holds the filters of what the link receives.
    Ingress,
    /// In the one class of the discipline at the root with the handle `1:`, in place of its own queue.
    Inner,
}

/// What a discipline does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QdiscKind {
    /// Limits the rate.
    Tbf(Tbf),
    /// A queue of so many bytes.
    Bfifo(u32),
    /// Fair queues that drop early where packets wait for long (RFC 8290).
    FqCodel,
    /// Nothing but filters on what is received.
    Ingress,
    /// Another one.
    Other(String),
}

/// A discipline of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// Its handle's major number: 1 is `1:`. The kernel's defaults have 0.
    pub handle: u16,
    /// What it is.
    pub kind: QdiscKind,
}

impl QdiscKind {
    fn name(&self) -> &str {
        match self {
            Self::Tbf(_) => "tbf",
            Self::Bfifo(_) => "bfifo",
            Self::FqCodel => "fq_codel",
            Self::Ingress => "ingress",
            Self::Other(name) => name,
        }
    }

    fn from_message(message: &TcMessage) -> Option<Self> {
        let mut kind = None;
        let mut options: &[TcOption] = &[];
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(name) => kind = Some(name.as_str()),
                TcAttribute::Options(found) => options = found,
                _ => {}
            }
        }
        Some(match (kind?, options) {
            // Options that netlink-packet-route doesn't know are one attribute, with their bytes in it.
            ("tbf", [TcOption::Other(raw)]) => Self::Tbf(Tbf::parse(value(raw).as_slice())?),
            ("fq_codel", _) => Self::FqCodel,
            ("ingress", _) => Self::Ingress,
            (name, _) => Self::Other(name.to_owned()),
        })
    }
}

/// `tbf rate 8000000bit burst 100000b limit 125000b`, as `tc qdisc add` takes it.
impl fmt::Display for QdiscKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tbf(tbf) => write!(f, "tbf {tbf}"),
            Self::Bfifo(limit) => write!(f, "bfifo limit {limit}b"),
            other => f.write_str(other.name()),
        }
    }
}

impl Place {
    /// The handle of what is there, and of what it is under.
    fn handles(self) -> (TcHandle, TcHandle) {
        let handle = |major, minor| TcHandle { major, minor };
        match self {
            Self::Root => (handle(1, 0), TcHandle::ROOT),
            Self::Ingress => (handle(0xffff, 0), TcHandle::INGRESS),
            // The kernel chooses a handle.
            Self::Inner => (TcHandle::UNSPEC, handle(1, 1)),
        }
    }

    fn message(self, link: u32) -> TcMessage {
        let mut message = about(link);
        (_, message.header.parent) = self.handles();
        message
    }
}

impl Netlink {
    /// Adds a discipline to the link with this index; at the root it gets the handle `1:`. Not idempotent.
    ///
    /// # Errors
    /// [`NetError::Exists`] if one that isn't the kernel's default is there; [`NetError::Unsupported`] where the kernel
    /// lacks it; [`NetError::NoSuchLink`]; otherwise the kernel's.
    pub fn add_qdisc(&self, link: u32, place: Place, kind: &QdiscKind) -> Result<(), NetError> {
        let mut message = place.message(link);
        (message.header.handle, _) = place.handles();
        message.attributes.push(TcAttribute::Kind(kind.name().to_owned()));
        match kind {
            QdiscKind::Tbf(tbf) => message.attributes.push(TcAttribute::Options(tbf.options())),
            // A `struct tc_fifo_qopt` without nesting.
            QdiscKind::Bfifo(limit) => {
                let options = DefaultNla::new(TCA_OPTIONS, limit.to_ne_bytes().to_vec());
                message.attributes.push(TcAttribute::Other(options));
            }
            _ => {}
        }
        // In a class there is the discipline's own queue already, which this one replaces.
        let flags = if place == Place::Inner { NLM_F_CREATE } else { NLM_F_CREATE | NLM_F_EXCL };
        let operation = || Operation::AddQdisc { link: link.into(), qdisc: kind.to_string() };
        match self.tell(rtm::NEWQDISC, &message, flags) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::EXIST) => {
                let operation = operation().with_name(self);
                let found = self.qdisc(link, place)?.map(|found| found.kind.to_string());
                Err(NetError::Exists { operation, name: found.unwrap_or_else(|| "a queueing discipline".to_owned()) })
            }
            Err(failure) if is_unknown_kind(&failure) => {
                Err(NetError::Unsupported { operation: operation().with_name(self), feature: feature(kind) })
            }
            Err(failure) => Err(failure.during(self, operation())),
        }
    }

    /// The discipline at that place of the link; `None` if there is none, or no such link. Constant time.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn qdisc(&self, link: u32, place: Place) -> Result<Option<Qdisc>, NetError> {
        // Without NLM_F_ECHO only listeners get the answer (`qdisc_get_notify` in net/sched/sch_api.c).
        match self.ask(rtm::GETQDISC, &place.message(link), NLM_F_ECHO) {
            Ok(answers) => Ok(answers.iter().find_map(|message: &TcMessage| {
                Some(Qdisc { handle: message.header.handle.major, kind: QdiscKind::from_message(message)? })
            })),
            // `EINVAL`: the kernel's default, of which it doesn't tell (`tc_qdisc_dump_ignore` in net/sched/sch_api.c).
            Err(failure) if [Errno::NOENT, Errno::NODEV, Errno::INVAL].iter().any(|errno| failure.is(*errno)) => {
                Ok(None)
            }
            Err(failure) => Err(failure.during(self, Operation::FindQdisc { link: link.into() })),
        }
    }

    /// Deletes the discipline at that place of the link, with its filters and whatever is queued in it. Idempotent: false if
    /// there was none but the kernel's default, or no such link.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn delete_qdisc(&self, link: u32, place: Place) -> Result<bool, NetError> {
        match self.tell(rtm::DELQDISC, &place.message(link), 0) {
            Ok(_) => Ok(true),
            Err(failure) if [Errno::NOENT, Errno::NODEV, Errno::INVAL].iter().any(|errno| failure.is(*errno)) => {
                Ok(false)
            }
            Err(failure) => Err(failure.during(self, Operation::DeleteQdisc { link: link.into() })),
        }
    }

    /// Says whether the kernel has the token bucket filter; adds none. Constant time.
    ///
    /// The kernel looks for the kind before it notices that a filter without settings is none (`qdisc_create` in
    /// net/sched/sch_api.c, `tbf_init` in net/sched/sch_tbf.c).
    ///
    /// # Errors
    /// [`NetError::Unsupported`], and the kernel's.
    pub fn probe_tbf(&self) -> Result<(), NetError> {
        // Each namespace has `lo`, with this index.
        let mut message = Place::Root.message(1);
        let name = "tbf".to_owned();
        message.attributes.push(TcAttribute::Kind(name.clone()));
        let operation = Operation::AddQdisc { link: 1.into(), qdisc: name };
        match self.tell(rtm::NEWQDISC, &message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(failure) if is_unknown_kind(&failure) => {
                Err(NetError::Unsupported { operation: operation.with_name(self), feature: TBF })
            }
            // `EEXIST`: `lo` has a discipline, and so the kernel got to the settings no more.
            Err(failure) if failure.is(Errno::INVAL) || failure.is(Errno::EXIST) => Ok(()),
            Err(failure) => Err(failure.during(self, operation)),
            Ok(_) => Ok(()),
        }
    }
}

/// `include/uapi/linux/rtnetlink.h`.
const TCA_OPTIONS: u16 = 2;
const TBF: &str = "the token bucket filter (CONFIG_NET_SCH_TBF)";

/// `ENOENT` is the answer to an unknown kind (`qdisc_create`), and to a class that isn't there.
fn is_unknown_kind(failure: &Failure) -> bool {
    failure.is(Errno::NOENT)
}

fn feature(kind: &QdiscKind) -> &'static str {
    match kind {
        QdiscKind::Tbf(_) => TBF,
        QdiscKind::FqCodel => "fair queueing with controlled delay (CONFIG_NET_SCH_FQ_CODEL)",
        QdiscKind::Ingress => "filters on what a link receives (CONFIG_NET_SCH_INGRESS)",
        _ => "this queueing discipline (CONFIG_NET_SCHED)",
    }
}

fn value(raw: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; raw.value_len()];
    raw.emit_value(&mut bytes);
    bytes
}
