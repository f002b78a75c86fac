//! ADD: carries out the plan.

use std::collections::BTreeSet;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use cni_net::{NetError, NetNs, Netlink, RouteFilter, Rule};
use cni_plugin::{Attachment, CniError, CniResult, Family, Request, Undo, lock_whole};
use rustix::fs::FlockOperation;

use crate::config::Config;
use crate::plan::{PROTOCOL, Plan, Present, addresses};
use crate::settings::Settings;

/// How long to wait for another call that chooses tables in this namespace.
const LOCK: Duration = Duration::from_secs(20);

/// Adds a rule and a table for each address, and returns the previous result. Not idempotent: the main table has no routes of
/// the interface any more, so a second ADD would make empty tables, and is refused.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config)?;
    let result = request.require_prev_result()?;
    let ifname = &attachment.owner.ifname;
    let addresses = addresses(result, ifname)?;
    if addresses.is_empty() {
        return Ok(result.clone());
    }
    let namespace = Rc::new(NetNs::open(&attachment.netns)?);
    let inside = Netlink::open_in(&namespace)?;
    let link = inside.link_by_name(ifname.as_str())?;
    if link.is_none() && settings.table.is_none() {
        return Err(CniError::plugin(format!(
            "Cannot find network interface {ifname}: it is not in {:?}",
            attachment.netns
        )));
    }

    // 2. What there is. No other call may choose the same tables meanwhile, nor one of the Go plugin, whose lock this is.
    let _lock = lock(&namespace)?;
    let present = present(&inside, link.map_or(0, |link| link.index))?;
    let plan = Plan::new(&settings, &addresses, result, &present);
    for rule in &plan.rules {
        let rules = inside.rules(Family::of(rule.source.ip()))?;
        let is_made =
            |found: &&Rule| found.source == rule.source && (found.protocol == PROTOCOL || found.table == rule.table);
        if let Some(found) = rules.iter().find(is_made) {
            return Err(CniError::plugin(format!("there is a rule {found} already: DEL the attachment first")));
        }
    }

    // 3. The tables, and then the rules that lead to them.
    for route in &plan.added {
        let (made, added) = (inside.add_route(route), route.clone());
        if !matches!(made, Err(NetError::Exists { .. })) {
            undoable(made, undo, &namespace, format!("route {}", route.dst), move |inside| {
                inside.delete_route(&added).map(drop)
            })?;
        }
    }
    for rule in plan.rules {
        let made = inside.add_rule(&rule);
        undoable(made, undo, &namespace, format!("rule {rule}"), move |inside| inside.delete_rule(&rule).map(drop))?;
    }

    // 4. The main table is for the other interfaces.
    for route in plan.removed {
        let (gone, name) = (inside.delete_route(&route), format!("the absence of route {}", route.dst));
        if !matches!(gone, Ok(false)) {
            undoable(gone.map(drop), undo, &namespace, name, move |inside| match inside.add_route(&route) {
                Err(NetError::Exists { .. }) => Ok(()),
                other => other,
            })?;
        }
    }
    Ok(result.clone())
}

/// Pushes the reverse of what was done, or may have been: an answer that is missing says nothing. On a socket of its own, for
/// this one may be what has failed.
fn undoable(
    done: Result<(), NetError>,
    undo: &mut Undo,
    namespace: &Rc<NetNs>,
    what: String,
    reverse: impl FnOnce(&Netlink) -> Result<(), NetError> + 'static,
) -> Result<(), NetError> {
    if matches!(done, Ok(()) | Err(NetError::NoAnswer { .. })) {
        let namespace = Rc::clone(namespace);
        undo.push(what, move || reverse(&Netlink::open_in(&namespace)?));
    }
    done
}

fn lock(namespace: &NetNs) -> Result<File, CniError> {
    let path = namespace.path();
    let failed = |error: std::io::Error| CniError::plugin(format!("cannot lock {path:?}: {error}"));
    let file = File::open(path).map_err(failed)?;
    let operation = FlockOperation::NonBlockingLockExclusive;
    lock_whole(&file, path, "the namespace", operation, LOCK)
        .map_err(|errno| failed(errno.into()))?
        .map_err(|held| CniError::plugin(held.to_string()))?;
    Ok(file)
}

fn present(inside: &Netlink, link: u32) -> Result<Present, NetError> {
    let mut tables: BTreeSet<u32> = inside.links()?.iter().filter_map(|link| link.vrf_table).collect();
    let mut routes = Vec::new();
    for family in Family::ALL {
        tables.extend(inside.tables_of_rules(family)?);
        let listed = inside.routes(&RouteFilter { family, device: None, table: None })?;
        tables.extend(listed.iter().filter_map(|route| route.table));
        routes.extend(listed.into_iter().filter(|route| route.device == link && route.is_in_main()));
    }
    Ok(Present { link, routes, tables })
}
