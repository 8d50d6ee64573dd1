//! The rights that calls need.

mod common;

use common::*;
use ferrogate_api::ec2::*;
use ferrogate_api::{Demand, Shape, Value};

fn arn(resource: &str) -> String {
    format!("arn:aws:ec2:us-east-1:{ACCOUNT}:{resource}")
}

fn context<'a>(demand: &'a Demand, key: &str) -> Option<&'a [String]> {
    demand.context.iter().find(|(name, _)| name == key).map(|(_, values)| values.as_slice())
}

fn pairs_of(demands: &[Demand]) -> Vec<(&str, &str)> {
    demands.iter().map(|demand| (demand.action.as_str(), demand.resource.as_str())).collect()
}

#[tokio::test]
async fn describing_is_for_everything() {
    let ec2 = service();
    let demands = ec2.demands(&user(), "DescribeVpcs", &DescribeVpcsRequest::default().to_value());
    assert_eq!(pairs_of(&demands), [("ec2:DescribeVpcs", "*")]);
}

#[tokio::test]
async fn creating_is_for_the_new_thing_and_where_it_goes() {
    let ec2 = service();
    let subnet = default_subnet(&ec2, &user()).await;
    let (subnet_id, vpc_id) = (subnet.subnet_id.unwrap(), subnet.vpc_id.unwrap());
    let web = group(&ec2, &vpc_id, "web").await;
    let input = CreateNetworkInterfaceRequest {
        subnet_id: some(&subnet_id),
        groups: list(&[&web]),
        tag_specifications: tagged("network-interface", &[("team", "a")]),
        ..Default::default()
    };
    let demands = ec2.demands(&user(), "CreateNetworkInterface", &input.to_value());
    let (of_subnet, of_group, new) = (
        arn(&format!("subnet/{subnet_id}")),
        arn(&format!("security-group/{web}")),
        arn("network-interface/*"),
    );
    assert_eq!(
        pairs_of(&demands),
        [
            ("ec2:CreateNetworkInterface", of_subnet.as_str()),
            ("ec2:CreateNetworkInterface", of_group.as_str()),
            ("ec2:CreateNetworkInterface", new.as_str()),
            ("ec2:CreateTags", new.as_str()),
        ]
    );
    let of_vpc = [arn(&format!("vpc/{vpc_id}"))];
    for demand in &demands {
        assert_eq!(context(demand, "ec2:Vpc"), Some(&of_vpc[..]));
    }
    assert_eq!(context(&demands[2], "ec2:Subnet"), Some(&[of_subnet.clone()][..]));
    assert_eq!(context(&demands[2], "aws:RequestTag/team"), Some(&["a".to_owned()][..]));
    assert_eq!(context(&demands[3], "aws:TagKeys"), Some(&["team".to_owned()][..]));
    assert_eq!(context(&demands[3], "ec2:CreateAction"), Some(&["CreateNetworkInterface".to_owned()][..]));
}

#[tokio::test]
async fn changing_is_for_the_thing_with_its_tags() {
    let ec2 = service();
    let vpc_id = default_vpc(&ec2, &user()).await.vpc_id.unwrap();
    let web = group(&ec2, &vpc_id, "web").await;
    let tags = Some(vec![Tag { key: some("team"), value: some("a") }]);
    let input = CreateTagsRequest { resources: list(&[&web]), tags, ..Default::default() };
    let demands = ec2.demands(&user(), "CreateTags", &input.to_value());
    assert_eq!(pairs_of(&demands), [("ec2:CreateTags", arn(&format!("security-group/{web}")).as_str())]);
    assert_eq!(context(&demands[0], "aws:RequestTag/team"), Some(&["a".to_owned()][..]));
    ec2.create_tags(&user(), input).await.unwrap();
    // By name is by id.
    let input = DeleteSecurityGroupRequest { group_name: some("web"), ..Default::default() };
    let demands = ec2.demands(&user(), "DeleteSecurityGroup", &input.to_value());
    assert_eq!(
        pairs_of(&demands),
        [("ec2:DeleteSecurityGroup", arn(&format!("security-group/{web}")).as_str())]
    );
    assert_eq!(context(&demands[0], "aws:ResourceTag/team"), Some(&["a".to_owned()][..]));
    assert_eq!(context(&demands[0], "ec2:ResourceTag/team"), Some(&["a".to_owned()][..]));
    // What cannot be found takes the right to all.
    let input = DeleteSecurityGroupRequest { group_name: some("none"), ..Default::default() };
    let demands = ec2.demands(&user(), "DeleteSecurityGroup", &input.to_value());
    assert_eq!(pairs_of(&demands), [("ec2:DeleteSecurityGroup", arn("security-group/*").as_str())]);
}

/// No call is free: each of the operations demands at least its own action.
#[tokio::test]
async fn every_operation_demands_its_action() {
    let ec2 = service();
    let model = ferrogate_api::schema::model("ec2").expect("ec2 is served");
    for operation in &model.operations {
        let name = operation.name;
        let demands = ec2.demands(&user(), name, &Value::Struct(Vec::new()));
        let own = |demand: &Demand| demand.action == format!("ec2:{name}") && !demand.resource.is_empty();
        assert!(demands.iter().any(own), "{name}");
    }
}
