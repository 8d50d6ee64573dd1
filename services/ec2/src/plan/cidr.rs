//! IPv4 blocks: what EC2 takes for one, and where it may lie.

use ferrogate_api::ApiError;
use ipnet::Ipv4Net;

use crate::errors::{bad_cidr, invalid_value};

/// VPC user guide, "VPC CIDR blocks": between /16 and /28.
const VPC_PREFIX: std::ops::RangeInclusive<u8> = 16..=28;

/// Blocks that mean something else to every IP stack: this host, loopback (where the public pool lies), link-local
/// (where the metadata endpoints lie), multicast and beyond.
const NEVER_PRIVATE: [&str; 5] = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];

/// A block in its canonical form: EC2 turns 10.0.0.5/24 into 10.0.0.0/24.
pub(crate) fn parse(text: &str) -> Result<Ipv4Net, ApiError> {
    text.parse::<Ipv4Net>().map(|net| net.trunc()).map_err(|_| bad_cidr(text))
}

/// As `parse`, with the words of the security group operations.
pub(crate) fn parse_rule(text: &str) -> Result<Ipv4Net, ApiError> {
    text.parse::<Ipv4Net>()
        .map(|net| net.trunc())
        .map_err(|_| invalid_value(format!("CIDR block {text} is malformed")))
}

pub(crate) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// A block that a VPC may have.
pub(crate) fn check_vpc(text: &str) -> Result<Ipv4Net, ApiError> {
    let cidr = parse(text)?;
    let reserved = NEVER_PRIVATE.iter().any(|net| overlap(cidr, net.parse().expect("a block")));
    if !VPC_PREFIX.contains(&cidr.prefix_len()) || reserved {
        return Err(ApiError::new("InvalidVpc.Range", format!("The CIDR '{text}' is invalid.")));
    }
    Ok(cidr)
}

/// A block that a subnet may have, in a VPC of these blocks beside these subnets.
pub(crate) fn check_subnet(
    text: &str,
    vpc: impl IntoIterator<Item = Ipv4Net>,
    subnets: impl IntoIterator<Item = Ipv4Net>,
) -> Result<Ipv4Net, ApiError> {
    let cidr = parse(text)?;
    if !VPC_PREFIX.contains(&cidr.prefix_len()) || !vpc.into_iter().any(|block| block.contains(&cidr)) {
        return Err(ApiError::new("InvalidSubnet.Range", format!("The CIDR '{text}' is invalid.")));
    }
    if subnets.into_iter().any(|other| overlap(cidr, other)) {
        let message = format!("The CIDR '{text}' conflicts with another subnet");
        return Err(ApiError::new("InvalidSubnet.Conflict", message));
    }
    Ok(cidr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_of_vpcs() {
        for good in ["10.0.0.0/16", "172.31.0.0/28", "100.64.0.0/16", "203.0.0.0/16"] {
            assert!(check_vpc(good).is_ok(), "{good}");
        }
        assert_eq!(check_vpc("10.0.5.1/16").unwrap(), net("10.0.0.0/16"));
        for (bad, code) in [
            ("10.0.0.0/15", "InvalidVpc.Range"),
            ("10.0.0.0/29", "InvalidVpc.Range"),
            ("127.64.0.0/16", "InvalidVpc.Range"),
            ("169.254.170.0/24", "InvalidVpc.Range"),
            ("10.0.0.0", "InvalidParameterValue"),
            ("10.0.0/16", "InvalidParameterValue"),
        ] {
            assert_eq!(check_vpc(bad).unwrap_err().code, code, "{bad}");
        }
    }

    #[test]
    fn blocks_of_subnets() {
        let check =
            |text| check_subnet(text, [net("10.0.0.0/16")], [net("10.0.1.0/24")]).map_err(|error| error.code);
        assert_eq!(check("10.0.2.0/24"), Ok(net("10.0.2.0/24")));
        assert_eq!(check("10.1.0.0/24"), Err("InvalidSubnet.Range".into()));
        assert_eq!(check("10.0.0.0/15"), Err("InvalidSubnet.Range".into()));
        assert_eq!(check("10.0.1.128/25"), Err("InvalidSubnet.Conflict".into()));
        assert_eq!(check("10.0.0.0/16"), Err("InvalidSubnet.Conflict".into()));
    }
}
