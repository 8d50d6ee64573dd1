//! No bytes make a decoder panic, and what one takes in, the validator and the encoder take too.

use ferrogate_api::schema::{self, Model, Operation, Protocol};
use ferrogate_wire::{Catalog, decode, detect, encode, validate};
use http::Request;
use http::request::Parts;
use proptest::prelude::*;

const PROTOCOLS: &[Protocol] = &[
    Protocol::Json10,
    Protocol::Json11,
    Protocol::Query,
    Protocol::Ec2,
    Protocol::RestJson,
    Protocol::RestXml,
    Protocol::RpcV2Cbor,
];

/// Operations with much in them: nested lists, maps, blobs, timestamps, unions.
const OPERATIONS: &[(&str, &str)] = &[
    ("ecs", "RegisterTaskDefinition"),
    ("ecs", "CreateService"),
    ("ec2", "DescribeSecurityGroups"),
    ("ec2", "AuthorizeSecurityGroupIngress"),
    ("iam", "CreateRole"),
    ("logs", "PutLogEvents"),
    ("ecr", "UploadLayerPart"),
];

fn operation(at: usize) -> (&'static Model, &'static Operation) {
    let (service, name) = OPERATIONS[at % OPERATIONS.len()];
    let model = schema::model(service).unwrap();
    (model, model.operation(name).unwrap())
}

fn parts(method: &str, uri: &str) -> Parts {
    Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
}

/// Decodes under every protocol; what comes out goes through the rest.
fn take(model: &'static Model, operation: &'static Operation, uri: &str, body: &[u8]) {
    for protocol in PROTOCOLS {
        if let Ok(value) = decode(model, *protocol, operation, &parts("POST", uri), body) {
            let _ = validate(model, operation, &value);
            encode(model, *protocol, operation, &value, "id");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(at: usize, body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (model, operation) = operation(at);
        take(model, operation, "/", &body);
    }

    #[test]
    fn nearly_json(at: usize, body in r#"(\{|\[|"|,|:|null|1e999|-0|[0-9]{1,20}|"family"|"containerDefinitions"|"tags"|\}|\]|\\u[dD]8[0-9]{2}){0,40}"#) {
        let (model, operation) = operation(at);
        take(model, operation, "/", body.as_bytes());
    }

    #[test]
    fn nearly_a_form(at: usize, body in r"((Tags|Filter|IpPermissions|GroupId|RoleName)(\.(member|entry|key|value|Key|0|1|18446744073709551616|)){0,4}=[%&+a-z0-9]{0,4}&){0,12}") {
        let (model, operation) = operation(at);
        take(model, operation, "/", body.as_bytes());
        take(model, operation, &format!("/?{body}"), b"");
    }

    #[test]
    fn nearly_xml(at: usize, body in r"(<(a|tags|member|entry|key)( x='[&;a]{0,2}')?>|</(a|tags|member|entry|key)>|<a/>|&(#x?[0-9]{1,7}|lt|b);|<!\[CDATA\[|\]\]>|<!--|-->|<\?xml|\?>|[a-z]){0,30}") {
        let (model, operation) = operation(at);
        take(model, operation, "/", body.as_bytes());
    }

    /// Arrays and maps whose heads lie about their length, tags, breaks in odd places.
    #[test]
    fn nearly_cbor(at: usize, tail in proptest::collection::vec(prop_oneof![
        Just(b"\xbf".to_vec()), Just(b"\x9f".to_vec()), Just(b"\xff".to_vec()), Just(b"\xc1".to_vec()), Just(b"\xf9\x7e\x00".to_vec()),
        Just(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()), Just(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        Just(b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()), Just(b"\x64tags".to_vec()), Just(b"\x74containerDefinitions".to_vec()),
        Just(b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()), any::<u8>().prop_map(|byte| vec![byte]),
    ], 0..30)) {
        let (model, operation) = operation(at);
        let mut body = vec![0xbf];
        body.extend(tail.concat());
        take(model, operation, "/", &body);
    }

    #[test]
    fn any_request(method in "GET|PUT|POST|HEAD", path in r"(/[a-z%0-9{}+.]{0,6}){1,6}(\?[a-z=&A%0-9]{0,20})?", target in "[ -~]{0,30}", body in any::<Vec<u8>>(), signing in proptest::option::of("ecs|ec2|iam|nobody")) {
        let Ok(request) = Request::builder().method(method.as_str()).uri(path).header("x-amz-target", target).body(()) else { return Ok(()) };
        let (mut parts, ()) = request.into_parts();
        let _ = detect(&parts, &body, signing.as_deref());
        parts.headers.clear();
        let _ = detect(&parts, &body, signing.as_deref());
        let _ = Catalog::new(schema::models().iter().filter_map(|name| schema::model(name))).detect(&parts, &body, None);
    }
}

/// Long names, many segments, and deep nesting take neither the stack nor quadratic time.
#[test]
fn large_requests_end() {
    let (model, operation) =
        (schema::model("iam").unwrap(), schema::model("iam").unwrap().operation("CreateRole").unwrap());
    let deep = format!("Tags{}=x", ".member.1".repeat(500_000));
    take(model, operation, "/", deep.as_bytes());
    let mut wide = String::new();
    for number in 0..60_000 {
        wide.push_str(&format!("Tags.member.{number}.Key=a&"));
    }
    take(model, operation, "/", wide.as_bytes());
    take(model, operation, "/", "<a>".repeat(1_000_000).as_bytes());
    take(model, operation, "/", format!("<a>{}</a>", "<b/>".repeat(1_000_000)).as_bytes());
    take(model, operation, "/", "[".repeat(1_000_000).as_bytes());
    take(model, operation, "/", &b"\x9f".repeat(1_000_000));
    let keys: Vec<String> = (0..200_000).map(|number| format!("\"{}\":\"\"", number % 7)).collect();
    let (model, operation) = (
        schema::model("ecs").unwrap(),
        schema::model("ecs").unwrap().operation("RegisterTaskDefinition").unwrap(),
    );
    let body = format!(r#"{{"containerDefinitions":[{{"dockerLabels":{{{}}}}}]}}"#, keys.join(","));
    take(model, operation, "/", body.as_bytes());
}
