//! CHECK: compares the rules with the plan, and names each difference. Changes nothing.

use cni_attach::pair;
use cni_net::Netlink;
use cni_netfilter::Attachments;
use cni_plugin::{Attachment, CniError, CniResult, IfName, Request, verdict};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Compares the accepts and the ingress policy.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let prev = request.require_prev_result()?;
    let wanted = plan(&settings, &attachment.owner, prev)?;
    verdict(&request.config.firewall().check(&wanted, &Links { own: host_link(prev) })?)
}

/// The node's links.
struct Links {
    own: Option<IfName>,
}

impl Attachments for Links {
    fn has(&self, owner_key: &str) -> bool {
        Netlink::open().map_or(true, |socket| pair::is_attached(&socket, owner_key))
    }

    fn has_own(&self) -> bool {
        let exists = |name: &IfName| Netlink::open().and_then(|socket| socket.link_by_name(name.as_str()));
        self.own.as_ref().is_some_and(|name| matches!(exists(name), Ok(Some(_))))
    }
}

/// The node's end of the container's link: the last interface of the result that is in no sandbox, as plugins that make a bridge
/// list that first.
fn host_link(prev: &CniResult) -> Option<IfName> {
    let on_host = prev.interfaces.iter().rev().find(|interface| interface.sandbox.is_empty());
    on_host.and_then(|interface| interface.name.parse().ok())
}
