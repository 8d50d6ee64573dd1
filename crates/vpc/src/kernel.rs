//! What every namespace of the fabric has: its settings, its sockets, its rules.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::names::Named;
use crate::netlink::{self, ElementChange, NetlinkError, RouteSocket, RouteSpec, RuleSpec, Socket};
use crate::netns::NetNs;
use crate::plan::{self, Ruleset};

/// The loopback link is the first in every namespace.
pub(crate) const LOOPBACK: u32 = 1;
/// AWS: jumbo frames inside a VPC (Amazon EC2 user guide, "Network MTU").
pub(crate) const MTU: u32 = 9001;
/// `nft` says more than this only when it says the same often.
const NFT_MESSAGE_CHARACTERS_MAX: usize = 2000;
/// What the rules are made of; a stock kernel loads them when they are first asked for.
const RULE_MODULES: &str = "nf_tables nft_ct nft_nat nft_chain_nat nft_tproxy nf_conntrack_netlink";
/// How `nft` says that a kind of rule is not in the kernel.
const RULE_UNKNOWN: &str = "Could not process rule: No such file or directory";

/// Settings of a namespace that forwards. All are written: a new namespace may inherit the host's.
const ROUTER_SETTINGS: &[(&str, &str)] = &[
    // First: it resets some of the others.
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/secure_redirects", "0"),
    ("ipv4/conf/default/secure_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv4/conf/all/arp_filter", "0"),
    ("ipv4/conf/default/arp_filter", "0"),
    ("ipv4/conf/all/arp_ignore", "0"),
    ("ipv4/conf/default/arp_ignore", "0"),
    ("ipv4/conf/all/proxy_arp", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/all/log_martians", "0"),
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv4/conf/default/route_localnet", "0"),
];

/// A VPC's router: answers ARP for everything it routes, and believes a source only where it lives.
pub(crate) const VPC_SETTINGS: &[(&str, &str)] =
    &[("ipv4/conf/default/proxy_arp", "1"), ("ipv4/conf/default/rp_filter", "1")];

/// The uplink: the same sources come back from the relay's own sockets.
pub(crate) const UPLINK_SETTINGS: &[(&str, &str)] =
    &[("ipv4/conf/default/proxy_arp", "0"), ("ipv4/conf/default/rp_filter", "0")];

/// In the calling thread's namespace.
pub(crate) fn prepare_router(settings: &[(&str, &str)]) -> Result<Sockets> {
    for (name, value) in ROUTER_SETTINGS.iter().chain(settings) {
        let path = Path::new("/proc/sys/net").join(name);
        std::fs::write(&path, value).map_err(Error::io(format!("setting {} to {value}", path.display())))?;
    }
    // The fabric is IPv4; without IPv6 in the kernel there is nothing to turn off.
    for scope in ["all", "default"] {
        let path = Path::new("/proc/sys/net/ipv6/conf").join(scope).join("disable_ipv6");
        if path.exists() {
            std::fs::write(&path, "1").map_err(Error::io(format!("setting {} to 1", path.display())))?;
        }
    }
    let mut sockets = Sockets::open()?;
    sockets.route.set_up(LOOPBACK).map_err(refused("to bring up loopback"))?;
    Ok(sockets)
}

/// Both netlink sockets of one namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) route: RouteSocket,
    pub(crate) filter: Socket,
}

impl Sockets {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self> {
        let route = RouteSocket::open().map_err(Error::io("opening a route socket"))?;
        let what =
            "opening a netfilter socket, which needs the kernel's module nf_tables (modprobe nf_tables),";
        let filter = Socket::open(libc::NETLINK_NETFILTER).map_err(Error::io(what))?;
        Ok(Self { route, filter })
    }
}

pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(NetlinkError) -> Error {
    let what = what.into();
    move |source| Error::Netlink { what, source }
}

/// Makes the rules of a namespace `new`. `old` is what stands, when that is known; else all is replaced, in one
/// transaction.
pub(crate) fn apply_rules(
    namespace: &NetNs,
    filter: &mut Socket,
    old: Option<&Ruleset>,
    new: &Ruleset,
) -> Result<()> {
    let Some(old) = old.filter(|old| plan::same_shape(old, new)) else {
        return run_nft(namespace, &plan::whole(new));
    };
    if old == new {
        return Ok(());
    }
    let change = plan::diff(old, new);
    run_nft(namespace, &change.before)?;
    let mut elements = Vec::new();
    for change in &change.elements {
        for (add, list) in [(false, &change.remove), (true, &change.add)] {
            if !list.is_empty() {
                let list = list.iter().map(|(key, value)| (key, value)).collect();
                elements.push(ElementChange { set: &change.set, add, elements: list });
            }
        }
    }
    netlink::change_elements(filter, &elements)
        .map_err(refused(format!("set elements in {}", namespace.path().display())))?;
    run_nft(namespace, &change.after)
}

fn run_nft(namespace: &NetNs, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    // The child inherits the namespace of the thread that starts it.
    namespace.run(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::NftMissing,
                _ => Error::io("starting nft")(error),
            })?;
        // nft reads all of its input before it says anything, so neither side waits for the other. When it
        // dies early, its own message says more than a broken pipe.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(Error::io("waiting for nft"))?;
        if output.status.success() {
            return written.unwrap_or(Ok(())).map_err(Error::io("writing rules to nft"));
        }
        let message = words_of_nft(&String::from_utf8_lossy(&output.stderr));
        Err(Error::Nft { namespace: namespace.path().display().to_string(), message })
    })?
}

/// What it said, and what to do where the kernel lacks a module.
fn words_of_nft(said: &str) -> String {
    let mut message: String = said.chars().take(NFT_MESSAGE_CHARACTERS_MAX).collect();
    if message.contains(RULE_UNKNOWN) {
        message.push_str(&format!(
            "\nthis kernel may lack what the rules are made of: modprobe -a {RULE_MODULES}; \
             if that fails since the kernel was updated, reboot"
        ));
    }
    message
}

/// Routes become `desired`; what is unchanged is not touched.
pub(crate) fn converge_routes(
    socket: &mut RouteSocket,
    current: &mut BTreeSet<RouteSpec>,
    desired: BTreeSet<RouteSpec>,
) -> Result<()> {
    let what = |verb: &str, route: &RouteSpec| format!("to {verb} the route to {}", route.destination);
    let stays: BTreeSet<_> = desired.iter().map(|route| (route.table, route.destination)).collect();
    for route in desired.difference(current) {
        socket.replace_route(route).map_err(refused(what("set", route)))?;
    }
    for route in current.difference(&desired) {
        if !stays.contains(&(route.table, route.destination)) {
            socket.delete_route(route).map_err(refused(what("delete", route)))?;
        }
    }
    *current = desired;
    Ok(())
}

/// Rules become `desired`.
pub(crate) fn converge_policy(
    socket: &mut RouteSocket,
    current: &mut BTreeSet<RuleSpec>,
    desired: BTreeSet<RuleSpec>,
) -> Result<()> {
    let what = |verb: &str, rule: &RuleSpec| format!("to {verb} the routing rule of {:?}", rule.packets);
    for rule in desired.difference(current) {
        socket.add_rule(rule).map_err(refused(what("add", rule)))?;
    }
    for rule in current.difference(&desired) {
        socket.delete_rule(rule).map_err(refused(what("delete", rule)))?;
    }
    *current = desired;
    Ok(())
}

/// Removes everything with a name of this instance but its lock.
pub(crate) fn remove_all(names: &crate::names::Names) -> Result<()> {
    for (path, named) in names.list()? {
        if named != Named::Lock {
            NetNs::remove_name(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_kind_of_rule_is_told_what_to_load() {
        // Linux 6.1 without nft_tproxy.
        let said = "/dev/stdin:11:71-86: Error: Could not process rule: No such file or directory\n\
                    add rule ip ferrogate divert ip daddr 100.127.255.1/32 meta l4proto 6 tproxy to :15001\n";
        let words = words_of_nft(said);
        assert!(words.starts_with(said) && words.contains("modprobe -a nf_tables"), "{words}");
        let other = "/dev/stdin:1:1-4: Error: syntax error, unexpected string\n";
        assert_eq!(words_of_nft(other), other);
        assert_eq!(words_of_nft(&"x".repeat(10_000)).len(), NFT_MESSAGE_CHARACTERS_MAX);
    }
}
