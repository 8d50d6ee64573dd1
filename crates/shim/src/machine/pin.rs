//! What comes out of a guest is let in by one rule: IPv4 from the interface's own MAC and address. All else a guest's kernel
//! may make up (other sources, ARP, IPv6, tagged frames) ends at the tap. The rule is nftables', as the fabric's are, so that
//! `nft list ruleset` in the task's namespace shows it; it goes with the tap.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::netlink::Mac;

const PROGRAM: &str = "nft";
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
/// Its complaint, as far as it is told.
const WORDS_MAX: usize = 500;

/// In the calling process's network namespace, which has the link.
pub(super) fn pin(link: &str, mac: Mac, address: Ipv4Addr) -> io::Result<()> {
    let mut child = Command::new(PROGRAM)
        .args(["-f", "-"])
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{PROGRAM} (package nftables): {error}")))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(rule(link, mac, address).as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(WORDS_MAX).collect();
        return Err(io::Error::other(format!("{PROGRAM}: {}: {words}", output.status)));
    }
    written.unwrap_or(Ok(()))
}

fn rule(link: &str, mac: Mac, address: Ipv4Addr) -> String {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let mac = mac.join(":");
    format!(
        "table netdev {link} {{\n\tchain own {{\n\
         \t\ttype filter hook ingress device \"{link}\" priority filter; policy drop;\n\
         \t\tether saddr {mac} ether type ip ip saddr {address} accept\n\t}}\n}}\n"
    )
}

#[cfg(test)]
#[path = "pin_tests.rs"]
mod taken;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_names_the_interfaces_own_addresses_and_drops_the_rest() {
        let rule = rule("guest0", [2, 0, 0, 0, 0, 0xab], Ipv4Addr::new(10, 0, 0, 4));
        assert!(rule.contains("device \"guest0\"") && rule.contains("policy drop;"), "{rule}");
        assert!(
            rule.contains("ether saddr 02:00:00:00:00:ab ether type ip ip saddr 10.0.0.4 accept"),
            "{rule}"
        );
    }
}
