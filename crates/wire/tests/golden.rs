//! What stands on the wire, byte for byte, and what AWS says to what it does not understand.

use ferrogate_api::schema::{self, Model, Protocol};
use ferrogate_api::{ApiError, Value};
use ferrogate_wire::{Catalog, Route, decode, detect, encode, encode_error, validate};
use http::request::Parts;
use http::{Request, Response};

fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> (Parts, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    (parts, body.as_bytes().to_vec())
}

fn json(target: &str, body: &str) -> (Parts, Vec<u8>) {
    request("POST", "/", &[("x-amz-target", target), ("content-type", "application/x-amz-json-1.1")], body)
}

fn form(body: &str) -> (Parts, Vec<u8>) {
    request("POST", "/", &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")], body)
}

fn ecs(operation: &str, body: &str) -> Result<Value, ApiError> {
    understood(&json(&format!("AmazonEC2ContainerServiceV20141113.{operation}"), body), "ecs")
}

/// Detected, decoded and validated.
fn understood((parts, body): &(Parts, Vec<u8>), signing_name: &str) -> Result<Value, ApiError> {
    let Route { model, protocol, operation } =
        detect(parts, body, Some(signing_name)).map_err(|error| error.error)?;
    let input = decode(model, protocol, operation, parts, body)?;
    validate(model, operation, &input).map(|()| input)
}

fn as_json(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

fn text(response: &Response<Vec<u8>>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

fn message(result: Result<Value, ApiError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_sample_task_definition_is_understood() {
    let body = r#"{"family":"sample-fargate-app","networkMode":"awsvpc","requiresCompatibilities":["FARGATE"],
        "cpu":"256","memory":"512","containerDefinitions":[{"name":"sample-app","image":"nginx:latest",
        "unknown":{"a":[1,{}]},"command":null,"portMappings":[{"containerPort":80.0,"protocol":"tcp"}]}]}"#;
    assert_eq!(
        as_json(&ecs("RegisterTaskDefinition", body).unwrap()),
        r#"{"family":"sample-fargate-app","networkMode":"awsvpc","requiresCompatibilities":["FARGATE"],"cpu":"256","memory":"512","containerDefinitions":[{"name":"sample-app","image":"nginx:latest","portMappings":[{"containerPort":80,"protocol":"tcp"}]}]}"#
    );
}

#[test]
fn json_of_the_wrong_type_is_named() {
    assert_eq!(
        message(ecs("RegisterTaskDefinition", r#"{"family":"a","containerDefinitions":[{"memory":"512"}]}"#)),
        "SerializationException: Member 'containerDefinitions.1.member.memory' must be an integer of 32 bits, not a string."
    );
    for (body, expected) in [
        (r#"{"tasks":"a"}"#, "SerializationException: Member 'tasks' must be a list, not a string."),
        (
            r#"{"tasks":[1]}"#,
            "SerializationException: Member 'tasks.1.member' must be a string, not a number.",
        ),
        (r#"{"tasks":[null]}"#, "SerializationException: Member 'tasks.1.member' must not be null."),
        ("[]", "SerializationException: The body must be a structure, not a list."),
        ("null", "SerializationException: The body must be a structure, not null."),
    ] {
        assert_eq!(message(ecs("DescribeTasks", body)), expected, "{body}");
    }
    assert!(
        message(ecs("DescribeTasks", r#"{"tasks":["#))
            .starts_with("SerializationException: The body is not JSON")
    );
    assert!(
        message(ecs("DescribeTasks", "{} x")).starts_with("SerializationException: The body is not JSON")
    );
}

#[test]
fn the_last_of_two_members_counts_and_an_empty_body_is_a_structure() {
    assert_eq!(as_json(&ecs("ListTasks", r#"{"family":"a","family":"b"}"#).unwrap()), r#"{"family":"b"}"#);
    assert_eq!(as_json(&ecs("ListTasks", "").unwrap()), "{}");
}

#[test]
fn gzip_is_undone_within_bounds() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(br#"{"family":"a"}"#).unwrap();
    let target = ("x-amz-target", "AmazonEC2ContainerServiceV20141113.ListTasks");
    let (parts, _) = request("POST", "/", &[target, ("content-encoding", "gzip")], "");
    let body = gzip.finish().unwrap();
    assert_eq!(as_json(&understood(&(parts.clone(), body), "ecs").unwrap()), r#"{"family":"a"}"#);
    assert!(message(understood(&(parts.clone(), b"no gzip".to_vec()), "ecs")).contains("Content-Encoding"));
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 40 << 20]).unwrap();
    let error = understood(&(parts, bomb.finish().unwrap()), "ecs").unwrap_err();
    assert_eq!((error.code.as_str(), error.status), ("RequestEntityTooLargeException", Some(413)));
}

#[test]
fn depth_and_size_have_limits() {
    // Unknown members are skipped, however deep.
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(ecs("ListTasks", &format!(r#"{{"unknown":{}}}"#, nested(100_000))).is_ok());
    let document = |levels: usize| {
        let hooks = format!(r#"[{{"hookDetails":{}}}]"#, nested(levels));
        format!(r#"{{"serviceName":"a","deploymentConfiguration":{{"lifecycleHooks":{hooks}}}}}"#)
    };
    assert!(ecs("CreateService", &document(20)).is_ok());
    assert!(message(ecs("CreateService", &document(100))).ends_with("is nested more than 64 levels deep."));
    assert!(message(ecs("CreateService", &document(100_000))).starts_with("SerializationException"));
    let many = format!(r#"{{"tasks":[{}""]}}"#, r#""","#.repeat(600_000));
    assert_eq!(ecs("DescribeTasks", &many).unwrap_err().status, Some(413));
}

#[test]
fn json_is_answered() {
    let model = schema::model("ecs").unwrap();
    let operation = model.operation("DescribeClusters").unwrap();
    let cluster = Value::Struct(vec![
        ("clusterName", Value::String("a\"é\n".into())),
        ("runningTasksCount", Value::Int(3)),
        ("status", Value::Null),
        ("tags", Value::List(vec![])),
    ]);
    let output = Value::Struct(vec![("clusters", Value::List(vec![cluster]))]);
    let response = encode(model, Protocol::Json11, operation, &output, "id");
    assert_eq!(text(&response), r#"{"clusters":[{"clusterName":"a\"é\n","runningTasksCount":3,"tags":[]}]}"#);
    assert_eq!(response.headers()["content-type"], "application/x-amz-json-1.1");
    assert_eq!(response.headers()["x-amzn-requestid"], "id");
    let stored: Value =
        serde_json::from_str(r#"{"tasks":[{"createdAt":"2026-01-31T10:20:30.5Z"}]}"#).unwrap();
    let operation = model.operation("DescribeTasks").unwrap();
    let response = encode(model, Protocol::Json11, operation, &stored, "id");
    assert_eq!(text(&response), r#"{"tasks":[{"createdAt":1769854830.5}]}"#);
}

#[test]
fn query_is_understood_and_answered() {
    let input = form(
        "Action=CreateRole&Version=2010-05-08&RoleName=r&AssumeRolePolicyDocument=%7B%7D\
         &Tags.member.2.Key=b&Tags.member.2.Value=&Tags.member.1.Key=a+c&Tags.member.1.Value=1&Tags.member.10.Key=d\
         &Tags.member.10.Value=3&MaxSessionDuration=3600&Unknown.1=x",
    );
    assert_eq!(
        as_json(&understood(&input, "iam").unwrap()),
        r#"{"RoleName":"r","AssumeRolePolicyDocument":"{}","MaxSessionDuration":3600,"Tags":[{"Key":"a c","Value":"1"},{"Key":"b","Value":""},{"Key":"d","Value":"3"}]}"#
    );
    let model = schema::model("sts").unwrap();
    let operation = model.operation("GetCallerIdentity").unwrap();
    let output = Value::Struct(vec![("Account", Value::String("<1>".into()))]);
    let response = encode(model, Protocol::Query, operation, &output, "id");
    assert_eq!(
        text(&response),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Account>&lt;1&gt;</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>id</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>"
    );
    let wrong = form(
        "Action=CreateRole&Version=2010-05-08&RoleName=r&AssumeRolePolicyDocument=a&MaxSessionDuration=x",
    );
    assert_eq!(
        message(understood(&wrong, "iam")),
        "MalformedInput: Member 'MaxSessionDuration' must be an integer of 32 bits, but is 'x'."
    );
}

#[test]
fn ec2_is_understood_and_answered() {
    let input = form(
        "Action=DescribeSubnets&Version=2016-11-15&Filter.1.Name=vpc-id&Filter.1.Value.1=v1&Filter.1.Value.2=v2\
         &SubnetId.1=s1&DryRun=false",
    );
    assert_eq!(
        as_json(&understood(&input, "ec2").unwrap()),
        r#"{"Filters":[{"Name":"vpc-id","Values":["v1","v2"]}],"SubnetIds":["s1"],"DryRun":false}"#
    );
    let model = schema::model("ec2").unwrap();
    let operation = model.operation("DescribeSubnets").unwrap();
    let subnet = Value::Struct(vec![("SubnetId", Value::String("s1".into()))]);
    let output = Value::Struct(vec![("Subnets", Value::List(vec![subnet]))]);
    let response = encode(model, Protocol::Ec2, operation, &output, "id");
    assert_eq!(
        text(&response),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <DescribeSubnetsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>id</requestId>\
         <subnetSet><item><subnetId>s1</subnetId></item></subnetSet></DescribeSubnetsResponse>"
    );
    let wrong = form("Action=DescribeSubnets&Version=2016-11-15&MaxResults=many");
    assert_eq!(
        message(understood(&wrong, "ec2")),
        "InvalidParameterValue: Value (many) for parameter MaxResults is invalid. It must be an integer of 32 bits."
    );
}

#[test]
fn errors_have_the_protocols_form() {
    let error = ApiError::new("ClusterNotFoundException", "Cluster not found.");
    let response = encode_error(schema::model("ecs"), Protocol::Json11, &error, "id");
    assert_eq!(text(&response), r#"{"__type":"ClusterNotFoundException","message":"Cluster not found."}"#);
    assert_eq!(response.status(), 400);

    // By its shape's name or by its code, the wire has the code, and the model the status.
    for code in ["NoSuchEntity", "NoSuchEntityException"] {
        let response =
            encode_error(schema::model("iam"), Protocol::Query, &ApiError::new(code, "a & b"), "id");
        assert_eq!(response.status(), 404);
        assert_eq!(
            text(&response),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type>\
             <Code>NoSuchEntity</Code><Message>a &amp; b</Message></Error><RequestId>id</RequestId></ErrorResponse>"
        );
    }

    let error = ApiError::new("InvalidGroup.NotFound", "no");
    let response = encode_error(schema::model("ec2"), Protocol::Ec2, &error, "id");
    assert_eq!(
        text(&response),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>InvalidGroup.NotFound</Code>\
         <Message>no</Message></Error></Errors><RequestID>id</RequestID></Response>"
    );

    let response = encode_error(None, Protocol::Json11, &ApiError::internal(), "id");
    assert_eq!(response.status(), 500);
    assert!(text(&response).starts_with(r#"{"__type":"InternalFailure","message":"#));

    let response = encode_error(None, Protocol::RpcV2Cbor, &ApiError::new("A", "b"), "id");
    assert_eq!(response.body(), b"\xa2\x66__type\x61A\x67message\x61b");
    assert_eq!(response.headers()["smithy-protocol"], "rpc-v2-cbor");
}

#[test]
fn what_is_no_operation_is_refused_as_on_aws() {
    let refused = |(parts, body): (Parts, Vec<u8>), signing: Option<&str>| {
        let error = detect(&parts, &body, signing).unwrap_err();
        (error.protocol, error.error.code.clone(), error.error.message)
    };
    let (protocol, code, _) = refused(json("AmazonEC2ContainerServiceV20141113.Fly", "{}"), Some("ecs"));
    assert_eq!((protocol, code.as_str()), (Protocol::Json11, "UnknownOperationException"));
    let (_, code, _) = refused(json("Nobody.Fly", "{}"), Some("ecs"));
    assert_eq!(code, "UnknownOperationException");
    let told = refused(form("Action=Fly&Version=2010-05-08"), Some("iam"));
    assert_eq!(
        told,
        (
            Protocol::Query,
            "InvalidAction".into(),
            "Could not find operation Fly for version 2010-05-08".into()
        )
    );
    let told = refused(form("Action=ListUsers"), Some("iam"));
    assert_eq!(told.2, "Could not find operation ListUsers for version NO_VERSION_SPECIFIED");
    let told = refused(form("Action=Fly&Version=2016-11-15"), Some("ec2"));
    assert_eq!(
        told,
        (Protocol::Ec2, "InvalidAction".into(), "The action Fly is not valid for this web service.".into())
    );
    assert_eq!(refused(form("a=b"), Some("iam")).1, "MissingAction");
    assert_eq!(
        refused(form("Action=ListQueues&Version=2012-11-05"), Some("sqs")).1,
        "NotImplementedException"
    );
}

/// Operations that AWS has, beyond the table: not as if there were none, in every way to name one.
#[test]
fn what_only_aws_has_is_said_to_be_not_served() {
    let refused = |(parts, body): (Parts, Vec<u8>), signing: &str| {
        let error = detect(&parts, &body, Some(signing)).unwrap_err();
        (error.protocol, error.error)
    };
    let path = |method, path| request(method, path, &[], "");
    for (protocol, service, operation, sent) in [
        (Protocol::Json11, "ecs", "ListDaemons", json("AmazonEC2ContainerServiceV20141113.ListDaemons", "")),
        (Protocol::Json11, "ssm", "SendCommand", json("AmazonSSM.SendCommand", "{}")),
        (Protocol::Query, "iam", "CreateSAMLProvider", form("Action=CreateSAMLProvider&Version=2010-05-08")),
        (Protocol::Ec2, "ec2", "RunInstances", form("Action=RunInstances&Version=2016-11-15")),
        (Protocol::RestXml, "route53", "GetTrafficPolicy", path("GET", "/2013-04-01/trafficpolicy/a/1")),
        (Protocol::RestXml, "route53", "CreateKeySigningKey", path("POST", "/2013-04-01/keysigningkey")),
    ] {
        assert_eq!(refused(sent, service), (protocol, ApiError::not_implemented(service, operation)));
    }
    // What is in the table stays what it is, also where a member that must be there is not.
    let (parts, body) = path("GET", "/2013-04-01/hostedzonesbyvpc");
    assert_eq!(detect(&parts, &body, Some("route53")).unwrap().operation.name, "ListHostedZonesByVPC");
    assert_eq!(refused(path("GET", "/2013-04-01/coffee"), "route53").1.code, "UnknownOperationException");
}

/// Found by sending them: a form that could not be read was taken for one without an action.
#[test]
fn a_form_that_cannot_be_read_says_why() {
    let typed = ("content-type", "application/x-www-form-urlencoded");
    let (parts, body) = request("POST", "/", &[typed, ("content-encoding", "gzip")], "Action=ListUsers");
    let error = detect(&parts, &body, Some("iam")).unwrap_err().error;
    assert_eq!((error.code.as_str(), error.status), ("MalformedInput", Some(400)));
    let (parts, body) =
        request("POST", "/", &[typed], &format!("Action=ListUsers&a={}", "x".repeat(9 << 20)));
    let error = detect(&parts, &body, Some("iam")).unwrap_err().error;
    assert_eq!((error.code.as_str(), error.status), ("RequestEntityTooLarge", Some(413)));
}

/// … and an item that is not numbered was left out.
#[test]
fn items_of_a_form_are_numbered() {
    for index in ["x", "-1", "18446744073709551616", ""] {
        let pair = format!("Tags.member.{index}.Key=k&Tags.member.{index}.Value=v");
        let body = format!("Action=CreateUser&Version=2010-05-08&UserName=a&{pair}");
        let error = understood(&form(&body), "iam").unwrap_err();
        assert_eq!(error.code, "MalformedInput", "{index}");
        assert!(error.message.contains("'tags'") || error.message.contains("'Tags'"), "{}", error.message);
    }
    let body = "Action=DescribeVpcs&Version=2016-11-15&Filter.Name=x";
    assert_eq!(understood(&form(body), "ec2").unwrap_err().code, "InvalidParameterValue");
}

/// As the SDKs send it, not as they call it.
#[test]
fn ec2_calls_parameters_by_their_wire_names() {
    let body = "Action=CreateSecurityGroup&Version=2016-11-15&GroupName=g";
    assert_eq!(
        understood(&form(body), "ec2").unwrap_err().message,
        "The request must contain the parameter GroupDescription"
    );
}

#[test]
fn the_version_tells_apart_where_nothing_is_signed() {
    let (parts, body) = request("GET", "/?Action=AssumeRoleWithWebIdentity&Version=2011-06-15", &[], "");
    let route = detect(&parts, &body, None).unwrap();
    assert_eq!((route.model.service, route.operation.name), ("sts", "AssumeRoleWithWebIdentity"));
}

#[test]
fn constraints_are_told_in_the_services_words() {
    let iam = |rest: &str| message(understood(&form(&format!("Version=2010-05-08&{rest}")), "iam"));
    assert_eq!(
        iam("Action=CreateUser&UserName=a%20b"),
        "ValidationError: The specified value for userName is invalid. It must contain only alphanumeric characters \
         and/or the following: +=,.@_-"
    );
    assert_eq!(
        iam("Action=AttachRolePolicy&PolicyArn=short"),
        "ValidationError: 2 validation errors detected: Value null at 'roleName' failed to satisfy constraint: Member \
         must not be null; Value 'short' at 'policyArn' failed to satisfy constraint: Member must have length greater \
         than or equal to 20"
    );
    assert_eq!(
        iam("Action=TagUser&UserName=u&Tags.member.1.Value=x"),
        "ValidationError: 1 validation error detected: Value null at 'tags.1.member.key' failed to satisfy constraint: \
         Member must not be null"
    );

    let logs = |body: &str| message(understood(&json("Logs_20140328.PutRetentionPolicy", body), "logs"));
    assert_eq!(
        logs(r#"{"logGroupName":"a b","retentionInDays":1}"#),
        "InvalidParameterException: 1 validation error detected: Value 'a b' at 'logGroupName' failed to satisfy \
         constraint: Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+"
    );

    let target = "AmazonEC2ContainerRegistry_V20150921.DescribeImages";
    assert!(
        message(understood(&json(target, r#"{"repositoryName":"AB"}"#), "ecr")).starts_with(
            "InvalidParameterException: Invalid parameter at 'repositoryName' failed to satisfy constraint: 'must \
             satisfy regular expression '"
        )
    );

    let ec2 = |rest: &str| message(understood(&form(&format!("Version=2016-11-15&{rest}")), "ec2"));
    assert_eq!(
        ec2("Action=DeleteSubnet"),
        "MissingParameter: The request must contain the parameter SubnetId"
    );
    assert_eq!(
        ec2("Action=DescribeSubnets&MaxResults=4"),
        "InvalidParameterValue: Value ( 4 ) for parameter MaxResults is invalid. Expecting a value greater than or \
         equal to 5."
    );

    assert_eq!(message(ecs("DescribeTasks", "{}")), "InvalidParameterException: Tasks can not be empty.");
    assert_eq!(
        message(ecs("RegisterTaskDefinition", r#"{"family":"a"}"#)),
        "ClientException: ContainerDefinitions should not be null or empty."
    );
    // Its enums are the operations' own business.
    assert!(ecs("RunTask", r#"{"taskDefinition":"a","launchType":"MOON"}"#).is_ok());
}

#[test]
fn a_secret_is_not_repeated() {
    let input = form("Action=CreateLoginProfile&Version=2010-05-08&UserName=u&Password=");
    let told = message(understood(&input, "iam"));
    assert!(told.contains("Value at 'password' failed"), "{told}");
}

/// A service made up, with what the six shipped do not have.
fn tiny(protocol: &str) -> &'static Model {
    let json = r#"{"metadata":{"apiVersion":"2020-01-01","endpointPrefix":"tiny","protocol":"PROTOCOL","targetPrefix":"Tiny"},
        "operations":{"Put":{"http":{"method":"PUT","requestUri":"/things/{Name}","responseCode":201},
          "input":{"shape":"In","locationName":"PutRequest"},"output":{"shape":"Out"}},
         "List":{"http":{"method":"GET","requestUri":"/things/{Name}?list=all"},"input":{"shape":"In"}},
         "Upload":{"http":{"method":"POST","requestUri":"/{Bucket}/{Key+}"},"input":{"shape":"Raw"},"output":{"shape":"Raw"}}},
        "shapes":{"In":{"type":"structure","required":["Name"],"members":[
            ["Name",{"shape":"S","location":"uri","locationName":"Name"}],
            ["At",{"shape":"T","location":"header","locationName":"x-at"}],
            ["Ids",{"shape":"L","location":"querystring","locationName":"id"}],
            ["Meta",{"shape":"M","location":"headers","locationName":"x-meta-"}],
            ["Count",{"shape":"I","locationName":"count"}],
            ["Tags",{"shape":"L","flattened":true}],["When",{"shape":"T"}],["Bytes",{"shape":"B"}],["Ratio",{"shape":"D"}]]},
          "Out":{"type":"structure","members":[["Code",{"shape":"I","location":"statusCode"}],
            ["Etag",{"shape":"S","location":"header","locationName":"etag"}],["Meta",{"shape":"M"}],["When",{"shape":"T"}],
            ["Ratio",{"shape":"D"}],["Bytes",{"shape":"B"}]]},
          "Raw":{"type":"structure","payload":"Body","members":[["Bucket",{"shape":"S","location":"uri"}],
            ["Key",{"shape":"S","location":"uri"}],["Body",{"shape":"B"}]]},
          "S":{"type":"string"},"I":{"type":"integer"},"D":{"type":"double"},"B":{"type":"blob"},"T":{"type":"timestamp"},
          "L":{"type":"list","member":{"shape":"S"}},"M":{"type":"map","key":{"shape":"S"},"value":{"shape":"S"}}}}"#;
    Box::leak(Box::new(Model::parse("tiny", json.replace("PROTOCOL", protocol).as_bytes()).unwrap()))
}

fn tiny_understood(model: &'static Model, (parts, body): &(Parts, Vec<u8>)) -> (&'static str, Value) {
    let route = Catalog::new([model]).detect(parts, body, Some("tiny")).unwrap();
    (route.operation.name, decode(model, route.protocol, route.operation, parts, body).unwrap())
}

#[test]
fn rest_binds_path_query_headers_and_body() {
    let headers = [("x-at", "Sat, 31 Jan 2026 10:20:30 GMT"), ("x-meta-a", "1")];
    let (name, value) = tiny_understood(
        tiny("rest-json"),
        &request("PUT", "/things/a%2Fb?id=1&id=2", &headers, r#"{"count":1,"Bytes":"YQ==","When":0.5}"#),
    );
    assert_eq!(name, "Put");
    assert_eq!(
        as_json(&value),
        r#"{"Count":1,"Bytes":"YQ==","When":"1970-01-01T00:00:00.5Z","Name":"a/b","At":"2026-01-31T10:20:30Z","Ids":["1","2"],"Meta":{"a":"1"}}"#
    );
    let body = "<PutRequest xmlns='x'><count> 1 </count><Tags>a&amp;&#x62;</Tags><Bytes>YQ==</Bytes><Tags>c</Tags>\
                <When>1970-01-01T00:00:00.5Z</When><Ratio>-Infinity</Ratio></PutRequest>";
    let (_, value) = tiny_understood(tiny("rest-xml"), &request("PUT", "/things/n", &[], body));
    let Value::Struct(members) = &value else { panic!("{value:?}") };
    assert!(
        members
            .contains(&("Tags", Value::List(vec![Value::String("a&b".into()), Value::String("c".into())])))
    );
    assert!(
        members.contains(&("Count", Value::Int(1)))
            && members.contains(&("Ratio", Value::Float(f64::NEG_INFINITY)))
    );

    let (name, value) = tiny_understood(tiny("rest-xml"), &request("GET", "/things/n?list=all", &[], ""));
    assert_eq!((name, as_json(&value).as_str()), ("List", r#"{"Name":"n"}"#));
    let raw = request("POST", "/b/k/e//y", &[("content-encoding", "gzip")], "raw");
    let (name, value) = tiny_understood(tiny("rest-xml"), &raw);
    assert_eq!(
        (name, as_json(&value).as_str()),
        ("Upload", r#"{"Body":"cmF3","Bucket":"b","Key":"k/e//y"}"#)
    );
}

/// Found by sending them: what stood behind the root, and in the wrong place, was passed over.
#[test]
fn xml_of_another_form_is_refused() {
    for (body, problem) in [
        (
            "<Put><count>1</count></Put>x",
            "The body is not XML that can be read: text stands outside its root element.",
        ),
        ("<Put>x<count>1</count></Put>", "The body must be elements, not text."),
        ("<Put><count><a/></count></Put>", "Member 'Count' must be text, not elements."),
        (
            "<Put><Ratio>\u{1}1</Ratio></Put>",
            "The body is not XML that can be read: it holds the character U+0001.",
        ),
    ] {
        let (parts, body) = request("PUT", "/things/n", &[], body);
        let route = Catalog::new([tiny("rest-xml")]).detect(&parts, &body, Some("tiny")).unwrap();
        let error = decode(route.model, route.protocol, route.operation, &parts, &body).unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("InvalidInput", problem));
    }
}

#[test]
fn xml_with_a_doctype_is_refused() {
    let body = "<!DOCTYPE a [<!ENTITY b \"c\">]><a><count>&b;</count></a>";
    let (parts, body) = request("PUT", "/things/n", &[], body);
    let model = tiny("rest-xml");
    let put = model.operation("Put").unwrap();
    let error = decode(model, Protocol::RestXml, put, &parts, &body).unwrap_err();
    assert_eq!(error.to_string(), "InvalidInput: The body must not have a DOCTYPE.");
}

fn tiny_output() -> Value {
    Value::Struct(vec![
        ("Code", Value::Int(202)),
        ("Etag", Value::String("e\r\nx: y".into())),
        ("Meta", Value::Map(vec![("a".into(), Value::String("\u{1}\r".into()))])),
        ("When", Value::Timestamp("2026-01-31T10:20:30.25Z".parse().unwrap())),
        ("Ratio", Value::Float(f64::NAN)),
        ("Bytes", Value::Blob(b"a".to_vec())),
    ])
}

#[test]
fn rest_is_answered() {
    let model = tiny("rest-json");
    let put = model.operation("Put").unwrap();
    let response = encode(model, Protocol::RestJson, put, &tiny_output(), "id");
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["etag"], "e  x: y");
    assert_eq!(
        text(&response),
        "{\"Meta\":{\"a\":\"\\u0001\\r\"},\"When\":1769854830.25,\"Ratio\":\"NaN\",\"Bytes\":\"YQ==\"}"
    );
    let response = encode(model, Protocol::RestXml, put, &tiny_output(), "id");
    assert_eq!(
        text(&response),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Out><Meta><entry><key>a</key><value>\u{fffd}&#xD;</value></entry>\
         </Meta><When>2026-01-31T10:20:30.250Z</When><Ratio>NaN</Ratio><Bytes>YQ==</Bytes></Out>"
    );
    let response = encode(model, Protocol::RestXml, put, &Value::Struct(vec![]), "id");
    assert_eq!(response.status(), 201);
}

#[test]
fn cbor_is_understood_and_answered() {
    let model = tiny("smithy-rpc-v2-cbor");
    let (parts, _) =
        request("POST", "/service/Tiny/operation/Put", &[("smithy-protocol", "rpc-v2-cbor")], "");
    // Indefinite map: Count 5 as a half float, unknown member, Tags in indefinite list and text, When tagged, null.
    let body = b"\xbf\x65Count\xf9\x45\x00\x61z\x82\x01\xa0\x64Tags\x9f\x7f\x61a\x61b\xff\xff\x64When\xc1\xfb\x3f\xe0\0\0\0\0\0\0\x64Name\xf6\xff";
    let (name, value) = tiny_understood(model, &(parts, body.to_vec()));
    assert_eq!(name, "Put");
    assert_eq!(as_json(&value), r#"{"Count":5,"Tags":["ab"],"When":"1970-01-01T00:00:00.5Z"}"#);
    let output = Value::Struct(vec![("When", Value::Timestamp("1970-01-01T00:00:01Z".parse().unwrap()))]);
    let response = encode(model, Protocol::RpcV2Cbor, model.operation("Put").unwrap(), &output, "id");
    assert_eq!(response.body(), b"\xa1\x64When\xc1\x01");
    assert_eq!(response.headers()["smithy-protocol"], "rpc-v2-cbor");
}
