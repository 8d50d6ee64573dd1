//! Deny by default, for every operation there is: generated from the table.

use ferrogate_tests::Cluster;
use serde_json::json;

#[test]
fn every_operation_is_denied() {
    let cluster = Cluster::start();
    let boto = cluster.boto();
    boto.ok("iam", "create_user", json!({ "UserName": "nobody" }));
    // An empty policy is one that allows nothing; IAM takes none without a statement.
    let nothing = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "none:Nothing", "Resource": "arn:aws:none:::nothing" },
    ]});
    boto.ok(
        "iam",
        "put_user_policy",
        json!({ "UserName": "nobody", "PolicyName": "empty", "PolicyDocument": nothing.to_string() }),
    );
    let key = boto.ok("iam", "create_access_key", json!({ "UserName": "nobody" }))["AccessKey"].clone();
    let said = cluster.python(
        "denied.py",
        &[key["AccessKeyId"].as_str().unwrap(), key["SecretAccessKey"].as_str().unwrap()],
    );
    print!("{}", said.stdout);
    said.ok();
}
