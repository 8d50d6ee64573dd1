//! The AWS managed policies that Fargate users attach, as AWS serves them (2026-03).
//!
//! Only documents known word for word: a policy that grants nearly what AWS grants is worse than none. What is
//! absent (`AmazonECS_FullAccess`, `ReadOnlyAccess` and the other long ones) is refused by IAM as not found.

use std::sync::{Arc, OnceLock};

use crate::document::{DocumentKind, Policy};

/// A policy under `arn:aws:iam::aws:policy`.
#[derive(Debug)]
pub struct ManagedPolicy {
    pub name: &'static str,
    /// `/` or `/service-role/`
    pub path: &'static str,
    /// The default version: `v1`.
    pub version_id: &'static str,
    /// The document, as JSON.
    pub document: &'static str,
    parsed: OnceLock<Arc<Policy>>,
}

impl ManagedPolicy {
    const fn new(
        path: &'static str,
        name: &'static str,
        version_id: &'static str,
        document: &'static str,
    ) -> Self {
        Self { name, path, version_id, document, parsed: OnceLock::new() }
    }

    /// `arn:aws:iam::aws:policy/service-role/…`
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::aws:policy{}{}", self.path, self.name)
    }

    /// The document, parsed on first use.
    pub fn policy(&self) -> Arc<Policy> {
        let parse = || match Policy::parse(self.document, DocumentKind::Identity) {
            Ok(policy) => policy,
            // The table is constant and every document in it is parsed by a test.
            Err(error) => unreachable!("managed policy {}: {error}", self.name),
        };
        self.parsed.get_or_init(parse).clone()
    }
}

/// The managed policy of this ARN.
pub fn managed(arn: &str) -> Option<&'static ManagedPolicy> {
    let path_and_name = arn.strip_prefix("arn:aws:iam::aws:policy")?;
    MANAGED
        .iter()
        .find(|policy| path_and_name.strip_prefix(policy.path).is_some_and(|name| name == policy.name))
}

/// All of them, sorted by name.
pub fn managed_policies() -> &'static [ManagedPolicy] {
    &MANAGED
}

static MANAGED: [ManagedPolicy; 21] = [
    ManagedPolicy::new(
        "/",
        "AWSXRayDaemonWriteAccess",
        "v2",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"AWSXRayDaemonWriteAccess","Effect":"Allow","Action":["xray:PutTraceSegments","xray:PutTelemetryRecords","xray:GetSamplingRules","xray:GetSamplingTargets","xray:GetSamplingStatisticSummaries"],"Resource":["*"]}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AdministratorAccess",
        "v1",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2ContainerRegistryFullAccess",
        "v3",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:*","cloudtrail:LookupEvents"],"Resource":"*"},{"Effect":"Allow","Action":["iam:CreateServiceLinkedRole"],"Resource":"*","Condition":{"StringEquals":{"iam:AWSServiceName":["replication.ecr.amazonaws.com"]}}}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2ContainerRegistryPowerUser",
        "v3",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken","ecr:BatchCheckLayerAvailability","ecr:GetDownloadUrlForLayer","ecr:GetRepositoryPolicy","ecr:DescribeRepositories","ecr:ListImages","ecr:DescribeImages","ecr:BatchGetImage","ecr:GetLifecyclePolicy","ecr:GetLifecyclePolicyPreview","ecr:ListTagsForResource","ecr:DescribeImageScanFindings","ecr:InitiateLayerUpload","ecr:UploadLayerPart","ecr:CompleteLayerUpload","ecr:PutImage"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2ContainerRegistryPullOnly",
        "v1",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken","ecr:BatchGetImage","ecr:GetDownloadUrlForLayer","ecr:BatchImportUpstreamImage"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2ContainerRegistryReadOnly",
        "v3",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken","ecr:BatchCheckLayerAvailability","ecr:GetDownloadUrlForLayer","ecr:GetRepositoryPolicy","ecr:DescribeRepositories","ecr:ListImages","ecr:DescribeImages","ecr:BatchGetImage","ecr:GetLifecyclePolicy","ecr:GetLifecyclePolicyPreview","ecr:ListTagsForResource","ecr:DescribeImageScanFindings"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/service-role/",
        "AmazonEC2ContainerServiceAutoscaleRole",
        "v2",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecs:DescribeServices","ecs:UpdateService"],"Resource":["*"]},{"Effect":"Allow","Action":["cloudwatch:DescribeAlarms","cloudwatch:PutMetricAlarm"],"Resource":["*"]}]}"#,
    ),
    ManagedPolicy::new(
        "/service-role/",
        "AmazonEC2ContainerServiceEventsRole",
        "v3",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecs:RunTask"],"Resource":["*"]},{"Effect":"Allow","Action":"iam:PassRole","Resource":["*"],"Condition":{"StringLike":{"iam:PassedToService":"ecs-tasks.amazonaws.com"}}},{"Effect":"Allow","Action":"ecs:TagResource","Resource":"*","Condition":{"StringEquals":{"ecs:CreateAction":["RunTask"]}}}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2FullAccess",
        "v5",
        r#"{"Version":"2012-10-17","Statement":[{"Action":"ec2:*","Effect":"Allow","Resource":"*"},{"Effect":"Allow","Action":"elasticloadbalancing:*","Resource":"*"},{"Effect":"Allow","Action":"cloudwatch:*","Resource":"*"},{"Effect":"Allow","Action":"autoscaling:*","Resource":"*"},{"Effect":"Allow","Action":"iam:CreateServiceLinkedRole","Resource":"*","Condition":{"StringEquals":{"iam:AWSServiceName":["autoscaling.amazonaws.com","ec2scheduled.amazonaws.com","elasticloadbalancing.amazonaws.com","spot.amazonaws.com","spotfleet.amazonaws.com","transitgateway.amazonaws.com"]}}}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonEC2ReadOnlyAccess",
        "v5",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ec2:Describe*","ec2:GetSecurityGroupsForVpc"],"Resource":"*"},{"Effect":"Allow","Action":"elasticloadbalancing:Describe*","Resource":"*"},{"Effect":"Allow","Action":["cloudwatch:ListMetrics","cloudwatch:GetMetricStatistics","cloudwatch:Describe*"],"Resource":"*"},{"Effect":"Allow","Action":"autoscaling:Describe*","Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonECSInfrastructureRolePolicyForLoadBalancers",
        "v6",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"ELBReadOperations","Effect":"Allow","Action":["elasticloadbalancing:DescribeListeners","elasticloadbalancing:DescribeRules","elasticloadbalancing:DescribeTargetGroups","elasticloadbalancing:DescribeTargetHealth"],"Resource":"*"},{"Sid":"TargetGroupOperations","Effect":"Allow","Action":["elasticloadbalancing:RegisterTargets","elasticloadbalancing:DeregisterTargets"],"Resource":"arn:aws:elasticloadbalancing:*:*:targetgroup/*/*"},{"Sid":"ALBModifyListeners","Effect":"Allow","Action":"elasticloadbalancing:ModifyListener","Resource":["arn:aws:elasticloadbalancing:*:*:listener/app/*/*/*"]},{"Sid":"NLBModifyListeners","Effect":"Allow","Action":"elasticloadbalancing:ModifyListener","Resource":["arn:aws:elasticloadbalancing:*:*:listener/net/*/*/*"]},{"Sid":"ALBModifyRules","Effect":"Allow","Action":"elasticloadbalancing:ModifyRule","Resource":["arn:aws:elasticloadbalancing:*:*:listener-rule/app/*/*/*/*"]}]}"#,
    ),
    ManagedPolicy::new(
        "/service-role/",
        "AmazonECSTaskExecutionRolePolicy",
        "v1",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken","ecr:BatchCheckLayerAvailability","ecr:GetDownloadUrlForLayer","ecr:BatchGetImage","logs:CreateLogStream","logs:PutLogEvents"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonS3FullAccess",
        "v2",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","s3-object-lambda:*"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonS3ReadOnlyAccess",
        "v3",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","s3:List*","s3:Describe*","s3-object-lambda:Get*","s3-object-lambda:List*"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonSQSFullAccess",
        "v1",
        r#"{"Version":"2012-10-17","Statement":[{"Action":["sqs:*"],"Effect":"Allow","Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "AmazonSSMReadOnlyAccess",
        "v1",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ssm:Describe*","ssm:Get*","ssm:List*"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "CloudWatchLogsFullAccess",
        "v8",
        r#"{"Version":"2012-10-17","Statement":[{"Sid":"CloudWatchLogsFullAccess","Effect":"Allow","Action":["logs:*","cloudwatch:GenerateQuery","cloudwatch:GenerateQueryResultsSummary","observabilityadmin:GetS3TableIntegration","observabilityadmin:ListS3TableIntegrations","observabilityadmin:ListTelemetryPipelines"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "IAMFullAccess",
        "v2",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:*","organizations:DescribeAccount","organizations:DescribeOrganization","organizations:DescribeOrganizationalUnit","organizations:DescribePolicy","organizations:ListChildren","organizations:ListParents","organizations:ListPoliciesForTarget","organizations:ListRoots","organizations:ListPolicies","organizations:ListTargetsForPolicy"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "IAMReadOnlyAccess",
        "v4",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:GenerateCredentialReport","iam:GenerateServiceLastAccessedDetails","iam:Get*","iam:List*","iam:SimulateCustomPolicy","iam:SimulatePrincipalPolicy"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "IAMUserChangePassword",
        "v5",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:ChangePassword"],"Resource":["arn:aws:iam::*:user/${aws:username}","arn:aws:iam::*:user/*/${aws:username}"]},{"Effect":"Allow","Action":["iam:GetAccountPasswordPolicy"],"Resource":"*"}]}"#,
    ),
    ManagedPolicy::new(
        "/",
        "PowerUserAccess",
        "v12",
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":["iam:*","organizations:*","account:*"],"Resource":"*"},{"Effect":"Allow","Action":["account:GetAccountInformation","account:GetGovCloudAccountInformation","account:GetPrimaryEmail","account:ListRegions","iam:CreateServiceLinkedRole","iam:DeleteServiceLinkedRole","iam:ListRoles","organizations:DescribeEffectivePolicy","organizations:DescribeOrganization"],"Resource":"*"}]}"#,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_parses_and_is_found_by_its_arn() {
        for policy in managed_policies() {
            assert!(!policy.policy().statements.is_empty());
            assert_eq!(managed(&policy.arn()).map(|found| found.name), Some(policy.name));
        }
        assert!(managed_policies().is_sorted_by_key(|policy| policy.name));
        assert!(managed("arn:aws:iam::aws:policy/AmazonECSTaskExecutionRolePolicy").is_none());
        assert!(managed("arn:aws:iam::123456789012:policy/AdministratorAccess").is_none());
    }
}
