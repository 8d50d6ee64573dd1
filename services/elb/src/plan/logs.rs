//! The names of log objects (ELB user guides, "Access log files").

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// ELB publishes a log file for each node every five minutes.
pub(crate) const WINDOW_SECONDS: i64 = 300;

/// The end of the window that a moment is in.
pub(crate) fn window_end(at: Timestamp) -> Timestamp {
    let seconds = at.as_second().div_euclid(WINDOW_SECONDS) + 1;
    Timestamp::from_second(seconds * WINDOW_SECONDS).unwrap_or(at)
}

/// What a log object is named after.
pub(crate) struct LogName<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    /// `app/name/id`
    pub(crate) balancer_path: &'a str,
    /// Of connections, not of requests.
    pub(crate) connection: bool,
    pub(crate) end: Timestamp,
    /// `None`: a network load balancer's, which does not tell.
    pub(crate) node_ip: Option<&'a str>,
    /// Makes two files of one window two names.
    pub(crate) random: &'a str,
}

impl LogName<'_> {
    /// `prefix/AWSLogs/account/elasticloadbalancing/region/yyyy/mm/dd/account_elasticloadbalancing_region_app.name.id_end_ip_random.log.gz`,
    /// of a network load balancer without the address.
    pub(crate) fn key(&self) -> String {
        let Self { account, region, node_ip, random, .. } = self;
        let end = self.end.to_zoned(TimeZone::UTC);
        let day = end.strftime("%Y/%m/%d");
        let time = end.strftime("%Y%m%dT%H%MZ");
        let balancer = self.balancer_path.replace('/', ".");
        let prefix = self.prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let kind = if self.connection { "conn_log." } else { "" };
        let node = node_ip.map_or_else(String::new, |ip| format!("{ip}_"));
        format!(
            "{prefix}AWSLogs/{account}/elasticloadbalancing/{region}/{day}/\
             {kind}{account}_elasticloadbalancing_{region}_{balancer}_{time}_{node}{random}.log.gz"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_elbs() {
        let name = LogName {
            prefix: "logs",
            account: "123456789012",
            region: "us-east-2",
            balancer_path: "app/my-loadbalancer/1234567890abcdef",
            connection: false,
            end: window_end("2022-02-15T23:36:12Z".parse().unwrap()),
            node_ip: Some("172.160.1.192"),
            random: "20sg8hgm",
        };
        assert_eq!(
            name.key(),
            "logs/AWSLogs/123456789012/elasticloadbalancing/us-east-2/2022/02/15/\
             123456789012_elasticloadbalancing_us-east-2_app.my-loadbalancer.1234567890abcdef_20220215T2340Z_172.160.1.192_20sg8hgm.log.gz"
        );
        let network =
            LogName { balancer_path: "net/my-loadbalancer/1234567890abcdef", node_ip: None, ..name };
        assert!(
            network
                .key()
                .ends_with("us-east-2_net.my-loadbalancer.1234567890abcdef_20220215T2340Z_20sg8hgm.log.gz")
        );
    }
}
