//! What our services may do of themselves: the service-linked roles, as AWS defines them, no wider than needed.

use std::sync::OnceLock;

use ferrogate_api::{Principal, PrincipalKind};
use ferrogate_policy::{DocumentKind, Named, Policy};

/// (service principal, role name, policy).
const ROLES: &[(&str, &str, &str)] = &[
    (
        "ecs.amazonaws.com",
        "AWSServiceRoleForECS",
        // After AmazonECSServiceRolePolicy: the statements for network interfaces, for what a RunTask checks, for what a
        // service's tasks are put behind, and for what Service Connect makes in Cloud Map. How revisions share an endpoint
        // is ours to say there: AWS has no word for it.
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[
        "ec2:AttachNetworkInterface","ec2:CreateNetworkInterface","ec2:CreateNetworkInterfacePermission",
        "ec2:CreateTags","ec2:DeleteNetworkInterface","ec2:DeleteNetworkInterfacePermission","ec2:Describe*",
        "ec2:DetachNetworkInterface","ec2:ModifyNetworkInterfaceAttribute",
        "elasticloadbalancing:DeregisterTargets","elasticloadbalancing:Describe*",
        "elasticloadbalancing:RegisterTargets",
        "servicediscovery:DeregisterInstance","servicediscovery:Get*","servicediscovery:List*",
        "servicediscovery:RegisterInstance","servicediscovery:UpdateInstanceCustomHealthStatus"],"Resource":"*"},
        {"Effect":"Allow","Action":["servicediscovery:DeleteServiceAttributes",
        "servicediscovery:UpdateServiceAttributes"],"Resource":"*",
        "Condition":{"Null":{"aws:ResourceTag/AmazonECSManaged":"false"}}},
        {"Effect":"Allow","Action":["servicediscovery:CreateHttpNamespace","servicediscovery:CreateService"],
        "Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["AmazonECSManaged"]}}},
        {"Effect":"Allow","Action":"servicediscovery:TagResource","Resource":"*",
        "Condition":{"StringLike":{"aws:RequestTag/AmazonECSManaged":"*"}}},
        {"Effect":"Allow","Action":"servicediscovery:DeleteService","Resource":"*",
        "Condition":{"Null":{"aws:ResourceTag/AmazonECSManaged":"false"}}}]}"#,
    ),
    (
        "servicediscovery.amazonaws.com",
        "AWSServiceRoleForCloudMap",
        // What Cloud Map does on Route 53; EC2 is asked for the VPC of a private zone.
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[
        "ec2:DescribeVpcs","route53:ChangeResourceRecordSets","route53:CreateHostedZone","route53:DeleteHostedZone",
        "route53:GetChange","route53:GetHostedZone","route53:ListHostedZonesByName",
        "route53:ListResourceRecordSets"],"Resource":"*"}]}"#,
    ),
    (
        "route53.amazonaws.com",
        "AWSServiceRoleForRoute53",
        // Ours: AWS's Route 53 knows without a role which load balancers an alias can lead to.
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[
        "elasticloadbalancing:DescribeLoadBalancers"],"Resource":"*"}]}"#,
    ),
    (
        "elasticloadbalancing.amazonaws.com",
        "AWSServiceRoleForElasticLoadBalancing",
        // After AWSElasticLoadBalancingServiceRolePolicy; the certificates are those of its listeners.
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[
        "acm:DescribeCertificate","ec2:AssociateAddress","ec2:AuthorizeSecurityGroupIngress",
        "ec2:CreateNetworkInterface","ec2:CreateSecurityGroup","ec2:DeleteNetworkInterface",
        "ec2:DeleteSecurityGroup","ec2:Describe*","ec2:DisassociateAddress","ec2:ModifyNetworkInterfaceAttribute",
        "iam:GetServerCertificate"],"Resource":"*"}]}"#,
    ),
];

/// The principal of a service acting in an account under its service-linked role.
pub(crate) fn principal(service: &str, account: &str) -> Principal {
    let role = ROLES.iter().find(|(name, ..)| *name == service).map_or("AWSServiceRole", |(_, role, _)| role);
    Principal {
        arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{service}"),
        account: account.to_owned(),
        user_id: format!("{role}:{service}"),
        kind: PrincipalKind::Service { name: service.to_owned() },
        tags: Vec::new(),
    }
}

/// The one policy of a service-linked role; a service without one may do nothing.
pub(crate) fn policy(service: &str) -> Option<Named> {
    static PARSED: OnceLock<Vec<(&str, Named)>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| {
        ROLES
            .iter()
            .map(|(service, role, json)| {
                let policy = Policy::parse(json, DocumentKind::Identity)
                    .expect("the policies of the service-linked roles parse");
                (*service, Named { name: (*role).into(), policy })
            })
            .collect()
    });
    parsed.iter().find(|(name, _)| *name == service).map(|(_, policy)| policy.clone())
}
