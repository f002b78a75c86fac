//! The filter that sends what a link receives out of another link instead.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

use super::about;
use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, rtm};

/// The ingress discipline's handle.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// `ETH_P_ALL` of `include/uapi/linux/if_ether.h`.
const ANY_PROTOCOL: u16 = 3;
/// The first filter that is asked.
const PRIORITY: u32 = 1;

impl Netlink {
    /// Makes the link send all packets that it receives out of the link `to`. The link needs an ingress discipline. Not
    /// idempotent.
    ///
    /// A `u32` filter: `matchall` would say the same, and not every kernel has it.
    ///
    /// # Errors
    /// [`NetError::Unsupported`] where the kernel lacks the filter or the action; [`NetError::Exists`] if there is a filter of
    /// that priority; otherwise the kernel's.
    pub fn add_redirect(&self, link: u32, to: u32) -> Result<(), NetError> {
        let operation = || Operation::AddRedirect { link: link.into(), to };
        match self.tell(rtm::NEWTFILTER, &message(link, to), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Errno::NOENT) => Err(NetError::Unsupported {
                operation: operation().with_name(self),
                feature: "u32 filters or the action mirred (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
            }),
            Err(failure) if failure.is(Errno::EXIST) => Err(NetError::Exists {
                operation: operation().with_name(self),
                name: format!("a filter of priority {PRIORITY}"),
            }),
            Err(failure) => Err(failure.during(self, operation())),
        }
    }

    /// The indexes of the links that filters of this link's ingress discipline redirect to. One that was deleted meanwhile is
    /// 0. `None` if the discipline has no filter at all, or isn't there.
    ///
    /// # Errors
    /// [`NetError`], with the kernel's error number.
    pub fn redirects(&self, link: u32) -> Result<Option<Vec<u32>>, NetError> {
        let mut message = about(link);
        message.header.parent = INGRESS;
        let answers = match self.dump(rtm::GETTFILTER, &message) {
            Ok(answers) => answers,
            Err(failure) if failure.is(Errno::INVAL) || failure.is(Errno::NODEV) => return Ok(None),
            Err(failure) => return Err(failure.during(self, Operation::ListFilters { link: link.into() })),
        };
        Ok((!answers.is_empty()).then(|| answers.iter().flat_map(targets).collect()))
    }
}

fn message(link: u32, to: u32) -> TcMessage {
    let mut everything = TcU32Selector::default();
    everything.flags = TcU32SelectorFlags::Terminal;
    everything.nkeys = 1;
    everything.keys = vec![TcU32Key::default()];

    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut redirect = TcAction::default();
    redirect.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];

    let mut message = about(link);
    message.header.parent = INGRESS;
    message.header.info = PRIORITY << 16 | u32::from(ANY_PROTOCOL.to_be());
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            // As the Go plugin has it: without a class the filter would match nothing.
            TcOption::U32(TcFilterU32Option::ClassId(TcHandle { major: 1, minor: 1 })),
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![redirect])),
        ]),
    ];
    message
}

fn targets(filter: &TcMessage) -> Vec<u32> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let attributes = actions.flatten().flat_map(|action| &action.attributes);
    let settings = attributes.filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    let parameters = settings.flatten().filter_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror),
        _ => None,
    });
    parameters.filter(|mirror| mirror.eaction == TcMirrorActionType::EgressRedir).map(|mirror| mirror.ifindex).collect()
}
