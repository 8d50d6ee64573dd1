//! Security group rules: from a request's permissions to single rules and back.

use ferrogate_api::ApiError;
use ferrogate_api::ec2::{IpPermission, IpRange, UserIdGroupPair};

use super::cidr;
use crate::errors::{invalid_combination, invalid_value, missing, unsupported};
use crate::state::{Rule, RulePeer, RuleRecord};

/// A rule as a request gives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WantedRule {
    pub rule: Rule,
    pub description: Option<String>,
}

/// The parameters that were there before `IpPermissions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlatPermission {
    pub ip_protocol: Option<String>,
    pub from_port: Option<i32>,
    pub to_port: Option<i32>,
    pub cidr_ip: Option<String>,
    pub source_group_name: Option<String>,
    pub source_group_owner: Option<String>,
}

impl FlatPermission {
    pub(crate) fn is_empty(&self) -> bool {
        self.ip_protocol.is_none()
            && self.from_port.is_none()
            && self.to_port.is_none()
            && self.cidr_ip.is_none()
            && self.source_group_name.is_none()
            && self.source_group_owner.is_none()
    }

    fn into_permissions(self) -> Result<Vec<IpPermission>, ApiError> {
        if let Some(group_name) = self.source_group_name {
            if self.cidr_ip.is_some()
                || self.ip_protocol.is_some()
                || self.from_port.is_some()
                || self.to_port.is_some()
            {
                let message = "The parameter SourceSecurityGroupName may not be used with CidrIp, IpProtocol, FromPort or ToPort.";
                return Err(invalid_combination(message));
            }
            // EC2 API reference, AuthorizeSecurityGroupIngress: "rules that grant full ICMP, UDP, and TCP access".
            let pair = UserIdGroupPair {
                group_name: Some(group_name),
                user_id: self.source_group_owner,
                ..UserIdGroupPair::default()
            };
            let permission = |(protocol, from, to): (&str, i32, i32)| IpPermission {
                ip_protocol: Some(protocol.to_owned()),
                from_port: Some(from),
                to_port: Some(to),
                user_id_group_pairs: Some(vec![pair.clone()]),
                ..IpPermission::default()
            };
            return Ok([("tcp", 0, 65535), ("udp", 0, 65535), ("icmp", -1, -1)].map(permission).to_vec());
        }
        if self.source_group_owner.is_some() {
            return Err(missing("SourceSecurityGroupName"));
        }
        let range =
            IpRange { cidr_ip: Some(self.cidr_ip.ok_or_else(|| missing("CidrIp"))?), description: None };
        Ok(vec![IpPermission {
            ip_protocol: self.ip_protocol,
            from_port: self.from_port,
            to_port: self.to_port,
            ip_ranges: Some(vec![range]),
            ..IpPermission::default()
        }])
    }
}

/// The single rules that a request's permissions stand for. `resolve` finds the id of the group a pair names.
pub(crate) fn wanted_rules(
    flat: FlatPermission,
    permissions: Option<Vec<IpPermission>>,
    resolve: impl Fn(&UserIdGroupPair) -> Result<String, ApiError>,
) -> Result<Vec<WantedRule>, ApiError> {
    let permissions = match permissions.filter(|permissions| !permissions.is_empty()) {
        Some(_) if !flat.is_empty() => {
            let message = "The parameter ipPermissions may not be used with IpProtocol, FromPort, ToPort, CidrIp or SourceSecurityGroupName.";
            return Err(invalid_combination(message));
        }
        Some(permissions) => permissions,
        None if flat.is_empty() => return Err(missing("ipPermissions")),
        None => flat.into_permissions()?,
    };
    let mut rules: Vec<WantedRule> = Vec::new();
    for permission in permissions {
        rules.extend(rules_of(permission, &resolve)?);
    }
    for (index, wanted) in rules.iter().enumerate() {
        if rules[..index].iter().any(|earlier| earlier.rule == wanted.rule) {
            return Err(invalid_value("The same permission must not appear multiple times"));
        }
    }
    Ok(rules)
}

fn rules_of(
    permission: IpPermission,
    resolve: &impl Fn(&UserIdGroupPair) -> Result<String, ApiError>,
) -> Result<Vec<WantedRule>, ApiError> {
    if permission.ipv6_ranges.is_some_and(|ranges| !ranges.is_empty()) {
        return Err(unsupported("IpPermissions.Ipv6Ranges"));
    }
    if permission.prefix_list_ids.is_some_and(|lists| !lists.is_empty()) {
        return Err(unsupported("IpPermissions.PrefixListIds"));
    }
    let (protocol, from_port, to_port) =
        check_protocol(permission.ip_protocol.as_deref(), permission.from_port, permission.to_port)?;
    let rule = |peer| Rule { protocol: protocol.clone(), from_port, to_port, peer };
    let mut rules = Vec::new();
    for range in permission.ip_ranges.unwrap_or_default() {
        let cidr = cidr::parse_rule(range.cidr_ip.as_deref().ok_or_else(|| missing("IpRanges.CidrIp"))?)?;
        let description = check_description(range.description)?;
        rules.push(WantedRule { rule: rule(RulePeer::Cidr(cidr)), description });
    }
    for pair in permission.user_id_group_pairs.unwrap_or_default() {
        if pair.vpc_peering_connection_id.is_some() {
            return Err(unsupported("UserIdGroupPairs.VpcPeeringConnectionId"));
        }
        let group_id = resolve(&pair)?;
        rules.push(WantedRule {
            rule: rule(RulePeer::Group(group_id)),
            description: check_description(pair.description)?,
        });
    }
    if rules.is_empty() {
        return Err(missing("IpPermissions.IpRanges"));
    }
    Ok(rules)
}

/// A protocol and its ports, in the one form they are kept in (see [`Rule`]).
pub(crate) fn check_protocol(
    protocol: Option<&str>,
    from: Option<i32>,
    to: Option<i32>,
) -> Result<(String, i32, i32), ApiError> {
    let protocol = protocol.ok_or_else(|| missing("IpProtocol"))?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "-1" | "all" => return Ok(("-1".into(), -1, -1)),
        "6" | "tcp" => "tcp",
        "17" | "udp" => "udp",
        "1" | "icmp" => return check_icmp(from.unwrap_or(-1), to.unwrap_or(-1)),
        "58" | "icmpv6" => return Err(unsupported("IpProtocol=icmpv6")),
        // EC2 API reference, IpPermission: other protocols have no ports, "regardless of any ports you specify".
        number => match number.parse::<u8>() {
            Ok(number) => return Ok((number.to_string(), -1, -1)),
            Err(_) => {
                let message = format!("Invalid value '{protocol}' for IP protocol. Unknown protocol.");
                return Err(invalid_value(message));
            }
        },
    };
    let (Some(from), Some(to)) = (from.filter(|from| *from != -1), to.filter(|to| *to != -1)) else {
        return Err(invalid_value(
            "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
        ));
    };
    if !(0..=65535).contains(&from) || !(0..=65535).contains(&to) || from > to {
        return Err(invalid_value(format!("Invalid TCP/UDP port range ({from}:{to})")));
    }
    Ok((protocol.into(), from, to))
}

fn check_icmp(kind: i32, code: i32) -> Result<(String, i32, i32), ApiError> {
    if !(-1..=255).contains(&kind) {
        return Err(invalid_value(format!("ICMP type ({kind}) must be between -1 and 255")));
    }
    if !(-1..=255).contains(&code) {
        return Err(invalid_value(format!("ICMP code ({code}) must be between -1 and 255")));
    }
    if kind == -1 && code != -1 {
        return Err(invalid_value(format!(
            "ICMP code ({code}) cannot be given when the ICMP type is -1 (all)"
        )));
    }
    Ok(("icmp".into(), kind, code))
}

/// EC2 API reference, IpRange: "Up to 255 characters in length", of a fixed set.
pub(crate) fn check_description(description: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(text) = description.filter(|text| !text.is_empty()) else { return Ok(None) };
    if !is_description(&text) {
        let message = format!(
            "Invalid rule description '{text}'. Valid descriptions are strings less than 256 characters from the \
             following set: a-zA-Z0-9. _-:/()#,@[]+=&;{{}}!$*"
        );
        return Err(invalid_value(message));
    }
    Ok(Some(text))
}

/// What group names, group descriptions and rule descriptions may be made of.
pub(crate) fn is_description(text: &str) -> bool {
    text.len() <= 255
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c))
}

impl Rule {
    pub(crate) fn peer_text(&self) -> String {
        match &self.peer {
            RulePeer::Cidr(cidr) => cidr.to_string(),
            RulePeer::Group(group) => group.clone(),
        }
    }

    /// As EC2 names a rule in InvalidPermission.Duplicate.
    pub(crate) fn words(&self) -> String {
        let peer = self.peer_text();
        let or_all = |number: i32| if number == -1 { "ALL".to_owned() } else { number.to_string() };
        match self.protocol.as_str() {
            "-1" => format!("peer: {peer}, ALL, ALLOW"),
            "icmp" => {
                format!(
                    "peer: {peer}, ICMP, type: {}, code: {}, ALLOW",
                    or_all(self.from_port),
                    or_all(self.to_port)
                )
            }
            "tcp" | "udp" => format!(
                "peer: {peer}, {}, from port: {}, to port: {}, ALLOW",
                self.protocol.to_ascii_uppercase(),
                self.from_port,
                self.to_port
            ),
            number => format!("peer: {peer}, {number}, ALLOW"),
        }
    }

    fn has_ports(&self) -> bool {
        matches!(self.protocol.as_str(), "tcp" | "udp" | "icmp")
    }
}

/// Rules of one direction as `IpPermissions`: those of the same protocol and ports stand together.
pub(crate) fn permissions<'a>(
    rules: impl IntoIterator<Item = &'a RuleRecord>,
    account: &str,
) -> Vec<IpPermission> {
    let mut permissions: Vec<(&Rule, IpPermission)> = Vec::new();
    for record in rules {
        let rule = &record.rule;
        let same = |other: &Rule| {
            (&other.protocol, other.from_port, other.to_port)
                == (&rule.protocol, rule.from_port, rule.to_port)
        };
        let index = permissions.iter().position(|(other, _)| same(other)).unwrap_or_else(|| {
            permissions.push((rule, empty_permission(rule)));
            permissions.len() - 1
        });
        let permission = &mut permissions[index].1;
        match &rule.peer {
            RulePeer::Cidr(cidr) => permission
                .ip_ranges
                .get_or_insert_default()
                .push(IpRange { cidr_ip: Some(cidr.to_string()), description: record.description.clone() }),
            RulePeer::Group(group) => {
                permission.user_id_group_pairs.get_or_insert_default().push(UserIdGroupPair {
                    group_id: Some(group.clone()),
                    user_id: Some(account.to_owned()),
                    description: record.description.clone(),
                    ..UserIdGroupPair::default()
                })
            }
        }
    }
    permissions.into_iter().map(|(_, permission)| permission).collect()
}

fn empty_permission(rule: &Rule) -> IpPermission {
    IpPermission {
        ip_protocol: Some(rule.protocol.clone()),
        from_port: rule.has_ports().then_some(rule.from_port),
        to_port: rule.has_ports().then_some(rule.to_port),
        ip_ranges: Some(Vec::new()),
        ipv6_ranges: Some(Vec::new()),
        prefix_list_ids: Some(Vec::new()),
        user_id_group_pairs: Some(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: &str, from: i32, to: i32, cidr: &str) -> Rule {
        Rule {
            protocol: protocol.into(),
            from_port: from,
            to_port: to,
            peer: RulePeer::Cidr(cidr.parse().unwrap()),
        }
    }

    #[test]
    fn protocols_have_one_form() {
        let check =
            |protocol, from, to| check_protocol(Some(protocol), from, to).map_err(|error| error.message);
        assert_eq!(check("6", Some(80), Some(80)), Ok(("tcp".into(), 80, 80)));
        assert_eq!(check("TCP", Some(0), Some(65535)), Ok(("tcp".into(), 0, 65535)));
        assert_eq!(check("-1", Some(80), Some(80)), Ok(("-1".into(), -1, -1)));
        assert_eq!(check("50", Some(0), Some(0)), Ok(("50".into(), -1, -1)));
        assert_eq!(check("icmp", Some(8), None), Ok(("icmp".into(), 8, -1)));
        for (protocol, from, to, message) in [
            ("tcp", Some(443), Some(80), "Invalid TCP/UDP port range (443:80)"),
            (
                "tcp",
                None,
                None,
                "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
            ),
            (
                "udp",
                Some(-1),
                Some(-1),
                "Invalid value for portRange. Must specify both from and to ports with TCP/UDP.",
            ),
            ("udp", Some(1), Some(65536), "Invalid TCP/UDP port range (1:65536)"),
            ("sctp", None, None, "Invalid value 'sctp' for IP protocol. Unknown protocol."),
            ("256", None, None, "Invalid value '256' for IP protocol. Unknown protocol."),
            ("icmp", Some(-1), Some(0), "ICMP code (0) cannot be given when the ICMP type is -1 (all)"),
        ] {
            assert_eq!(check(protocol, from, to), Err(message.into()));
        }
    }

    #[test]
    fn words() {
        for (rule, words) in [
            (rule("tcp", 80, 80, "0.0.0.0/0"), "peer: 0.0.0.0/0, TCP, from port: 80, to port: 80, ALLOW"),
            (rule("-1", -1, -1, "10.0.0.0/8"), "peer: 10.0.0.0/8, ALL, ALLOW"),
            (rule("icmp", 8, -1, "10.0.0.0/8"), "peer: 10.0.0.0/8, ICMP, type: 8, code: ALL, ALLOW"),
        ] {
            assert_eq!(rule.words(), words);
        }
    }

    #[test]
    fn permissions_group_by_protocol_and_ports() {
        let record = |rule| RuleRecord {
            rule_id: "sgr-1".into(),
            egress: false,
            rule,
            description: None,
            tags: Default::default(),
        };
        let rules = [
            record(rule("tcp", 80, 80, "10.0.0.0/8")),
            record(rule("-1", -1, -1, "10.0.0.0/8")),
            record(rule("tcp", 80, 80, "11.0.0.0/8")),
        ];
        let permissions = permissions(&rules, "1");
        assert_eq!(permissions.len(), 2);
        assert_eq!(permissions[0].ip_ranges.as_ref().unwrap().len(), 2);
        assert_eq!((permissions[1].from_port, permissions[1].to_port), (None, None));
    }

    #[test]
    fn flat_parameters() {
        let flat = FlatPermission {
            ip_protocol: Some("tcp".into()),
            from_port: Some(80),
            to_port: Some(80),
            cidr_ip: Some("10.1.2.3/8".into()),
            ..FlatPermission::default()
        };
        let unresolved = |_: &UserIdGroupPair| Err(missing("x"));
        let rules = wanted_rules(flat.clone(), None, unresolved).unwrap();
        assert_eq!(rules[0].rule, rule("tcp", 80, 80, "10.0.0.0/8"));
        let both = wanted_rules(flat, Some(vec![IpPermission::default()]), unresolved).unwrap_err();
        assert_eq!(both.code, "InvalidParameterCombination");
        let neither = wanted_rules(FlatPermission::default(), Some(Vec::new()), unresolved).unwrap_err();
        assert_eq!(neither.code, "MissingParameter");
        let by_name = FlatPermission { source_group_name: Some("web".into()), ..FlatPermission::default() };
        assert_eq!(wanted_rules(by_name, None, |_| Ok("sg-1".into())).unwrap().len(), 3);
    }
}
