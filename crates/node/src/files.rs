//! The files a container finds in `/etc`.

use ferrogate_nodeapi::TaskNetwork;

pub(crate) fn hosts(network: &TaskNetwork) -> String {
    let short = network.hostname.split('.').next().unwrap_or(&network.hostname);
    format!("127.0.0.1 localhost\n{} {} {short}\n", network.private_ip, network.hostname)
}

pub(crate) fn resolv_conf(network: &TaskNetwork) -> String {
    let mut text = String::new();
    if !network.dns_search.is_empty() {
        text += &format!("search {}\n", network.dns_search.join(" "));
    }
    for server in &network.dns_servers {
        text += &format!("nameserver {server}\n");
    }
    text + "options timeout:2 attempts:5\n"
}
