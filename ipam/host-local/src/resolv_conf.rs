//! The resolver's configuration file (resolv.conf(5)), as far as a CNI result has words for it.

use cni_plugin::Dns;

/// Reads the text. Unknown keywords, and keywords without a value, are passed over; `domain` counts once, the last time;
/// `search` and `options` add up over their lines (the resolver itself takes the last `search`; the Go plugin adds).
pub(crate) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut fields = line.split_whitespace().map(str::to_owned);
        let (Some(keyword), Some(value)) = (fields.next(), fields.next()) else { continue };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.push(value),
            "domain" => dns.domain = value,
            "search" => dns.search.extend(std::iter::once(value).chain(fields)),
            "options" => dns.options.extend(std::iter::once(value).chain(fields)),
            _ => {}
        }
    }
    dns
}
