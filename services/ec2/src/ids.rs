//! The ids of EC2's resources: their form, and what EC2 says when one is malformed or unknown.

use ferrogate_api::ApiError;

/// A kind of resource: how its ids begin, where its records lie, how its ARN and its errors read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `vpc` of `vpc-0123…`
    pub prefix: &'static str,
    /// In ARNs, tag specifications and store keys: `security-group`
    pub resource_type: &'static str,
    not_found_code: &'static str,
    malformed_code: Option<&'static str>,
    /// `The {noun} '{id}' does not exist`
    noun: &'static str,
}

pub(crate) const VPC: Kind = Kind {
    prefix: "vpc",
    resource_type: "vpc",
    not_found_code: "InvalidVpcID.NotFound",
    malformed_code: Some("InvalidVpcID.Malformed"),
    noun: "vpc ID",
};
pub(crate) const SUBNET: Kind = Kind {
    prefix: "subnet",
    resource_type: "subnet",
    not_found_code: "InvalidSubnetID.NotFound",
    malformed_code: Some("InvalidSubnetID.Malformed"),
    noun: "subnet ID",
};
pub(crate) const GROUP: Kind = Kind {
    prefix: "sg",
    resource_type: "security-group",
    not_found_code: "InvalidGroup.NotFound",
    malformed_code: Some("InvalidGroupId.Malformed"),
    noun: "security group",
};
pub(crate) const GROUP_RULE: Kind = Kind {
    prefix: "sgr",
    resource_type: "security-group-rule",
    not_found_code: "InvalidSecurityGroupRuleId.NotFound",
    malformed_code: Some("InvalidSecurityGroupRuleId.Malformed"),
    noun: "security group rule ID",
};
pub(crate) const ENI: Kind = Kind {
    prefix: "eni",
    resource_type: "network-interface",
    not_found_code: "InvalidNetworkInterfaceID.NotFound",
    malformed_code: Some("InvalidNetworkInterfaceID.Malformed"),
    noun: "networkInterface ID",
};
pub(crate) const INTERNET_GATEWAY: Kind = Kind {
    prefix: "igw",
    resource_type: "internet-gateway",
    not_found_code: "InvalidInternetGatewayID.NotFound",
    malformed_code: Some("InvalidInternetGatewayId.Malformed"),
    noun: "internetGateway ID",
};
pub(crate) const ROUTE_TABLE: Kind = Kind {
    prefix: "rtb",
    resource_type: "route-table",
    not_found_code: "InvalidRouteTableID.NotFound",
    malformed_code: Some("InvalidRouteTableId.Malformed"),
    noun: "routeTable ID",
};
pub(crate) const NETWORK_ACL: Kind = Kind {
    prefix: "acl",
    resource_type: "network-acl",
    not_found_code: "InvalidNetworkAclID.NotFound",
    malformed_code: Some("InvalidNetworkAclId.Malformed"),
    noun: "networkAcl ID",
};
/// EC2 documents no code for a malformed allocation id: it is one that does not exist.
pub(crate) const ADDRESS: Kind = Kind {
    prefix: "eipalloc",
    resource_type: "elastic-ip",
    not_found_code: "InvalidAllocationID.NotFound",
    malformed_code: None,
    noun: "allocation ID",
};
pub(crate) const DHCP_OPTIONS: Kind = Kind {
    prefix: "dopt",
    resource_type: "dhcp-options",
    not_found_code: "InvalidDhcpOptionID.NotFound",
    malformed_code: Some("InvalidDhcpOptionsId.Malformed"),
    noun: "dhcpOption ID",
};

/// Associations: they have ids, but neither records nor tags of their own.
const fn association(prefix: &'static str, resource_type: &'static str) -> Kind {
    Kind {
        prefix,
        resource_type,
        not_found_code: "InvalidAssociationID.NotFound",
        malformed_code: None,
        noun: "association ID",
    }
}

pub(crate) const VPC_CIDR_ASSOCIATION: Kind = association("vpc-cidr-assoc", "vpc-cidr-block-association");
pub(crate) const ROUTE_TABLE_ASSOCIATION: Kind = association("rtbassoc", "route-table-association");
pub(crate) const NETWORK_ACL_ASSOCIATION: Kind = association("aclassoc", "network-acl-association");
pub(crate) const ADDRESS_ASSOCIATION: Kind = association("eipassoc", "address-association");
pub(crate) const ENI_ATTACHMENT: Kind = association("eni-attach", "network-interface-attachment");

/// What carries tags, by the first part of its id.
pub(crate) const TAGGED: [&Kind; 10] = [
    &VPC,
    &SUBNET,
    &GROUP,
    &GROUP_RULE,
    &ENI,
    &INTERNET_GATEWAY,
    &ROUTE_TABLE,
    &NETWORK_ACL,
    &ADDRESS,
    &DHCP_OPTIONS,
];

impl Kind {
    /// A new random id, `eni-0123456789abcdef0`.
    pub(crate) fn new_id(&self) -> String {
        ferrogate_model::resource_id(self.prefix)
    }

    /// An id that follows from `seed`: the things a region has by default are made once, whoever is first.
    pub(crate) fn derived_id(&self, seed: &str) -> String {
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            format!("{}/{seed}", self.prefix).as_bytes(),
        );
        let digits: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-0{digits}", self.prefix)
    }

    pub(crate) fn arn(&self, region: &str, account: &str, id: &str) -> String {
        format!("arn:aws:ec2:{region}:{account}:{}/{id}", self.resource_type)
    }

    pub(crate) fn not_found(&self, id: &str) -> ApiError {
        ApiError::new(self.not_found_code, format!("The {} '{id}' does not exist", self.noun))
    }

    /// Eight or seventeen hex digits after the prefix: the two forms EC2 gives out.
    pub(crate) fn check(&self, id: &str) -> Result<(), ApiError> {
        let digits = id.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('-'));
        let well_formed = digits.is_some_and(|digits| {
            matches!(digits.len(), 8 | 17)
                && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if well_formed {
            return Ok(());
        }
        match self.malformed_code {
            Some(code) => {
                Err(ApiError::new(code, format!("Invalid id: \"{id}\" (expecting \"{}-...\")", self.prefix)))
            }
            None => Err(self.not_found(id)),
        }
    }
}

/// The kind of a taggable resource, from its id alone.
pub(crate) fn kind_of(id: &str) -> Result<&'static Kind, ApiError> {
    let prefix = id.rsplit_once('-').map_or("", |(prefix, _)| prefix);
    let kind = TAGGED.into_iter().find(|kind| kind.prefix == prefix);
    let kind = kind.ok_or_else(|| ApiError::new("InvalidID", format!("The ID '{id}' is not valid")))?;
    kind.check(id)?;
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in ["vpc-0123abcd", "vpc-0123456789abcdef0"] {
            assert!(VPC.check(good).is_ok(), "{good}");
        }
        for bad in ["", "vpc", "vpc-", "vpc-xyz", "vpc-0123ABCD", "subnet-0123abcd", "vpc-0123abcd0"] {
            assert_eq!(VPC.check(bad).unwrap_err().code, "InvalidVpcID.Malformed", "{bad}");
        }
        assert_eq!(ADDRESS.check("x").unwrap_err().code, "InvalidAllocationID.NotFound");
    }

    #[test]
    fn made_ids_are_well_formed_and_known() {
        for kind in TAGGED {
            let (random, derived) = (kind.new_id(), kind.derived_id("123456789012/us-east-1"));
            assert_eq!(kind_of(&random).unwrap(), kind);
            assert_eq!(kind_of(&derived).unwrap(), kind);
            assert_eq!(derived, kind.derived_id("123456789012/us-east-1"));
        }
        assert_eq!(kind_of("i-0123abcd").unwrap_err().code, "InvalidID");
    }
}
