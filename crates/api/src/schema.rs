//! The service models: what the codecs, the validator and the operation table read.
//!
//! A model is botocore's, without prose and cut to the operations of the table (`cargo xtask codegen`). It is
//! parsed once, on first use, and lives as long as the program: names are `&'static str`.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// Index into [`Model::shapes`].
pub type ShapeId = usize;

#[derive(Debug)]
pub struct Model {
    /// Our name and botocore's: `ecs`, `elbv2`.
    pub service: &'static str,
    pub signing_name: &'static str,
    pub endpoint_prefix: &'static str,
    pub api_version: &'static str,
    /// All the service is spoken in, the SDKs' first choice first.
    pub protocols: Vec<Protocol>,
    /// `AmazonEC2ContainerServiceV20141113`; JSON and CBOR only.
    pub target_prefix: Option<&'static str>,
    pub xml_namespace: Option<&'static str>,
    /// Old error codes are wanted too (`x-amzn-query-error`).
    pub query_compatible: bool,
    pub operations: Vec<Operation>,
    pub shapes: Vec<ShapeModel>,
    operation_index: HashMap<&'static str, usize>,
    shape_index: HashMap<&'static str, ShapeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Json10,
    Json11,
    Query,
    Ec2,
    RestJson,
    RestXml,
    RpcV2Cbor,
}

#[derive(Debug)]
pub struct Operation {
    pub name: &'static str,
    pub http_method: &'static str,
    /// `/clusters/{name}/fargate-profiles?x=y`; `/` for the RPC protocols.
    pub uri: &'static str,
    pub response_status: Option<u16>,
    pub input: Option<ShapeId>,
    pub output: Option<ShapeId>,
    /// Query: the element around the members.
    pub result_wrapper: Option<&'static str>,
    /// rest-xml: name of the input's root element.
    pub input_location_name: Option<&'static str>,
    pub input_xml_namespace: Option<&'static str>,
    pub errors: Vec<ShapeId>,
    /// The model says the call is not signed (`AssumeRoleWithWebIdentity`).
    pub unsigned: bool,
    pub host_prefix: Option<&'static str>,
}

#[derive(Debug)]
pub struct ShapeModel {
    pub name: &'static str,
    pub kind: Kind,
    pub sensitive: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub pattern: Option<&'static str>,
    pub allowed: Vec<&'static str>,
}

#[derive(Debug)]
pub enum Kind {
    Structure(Structure),
    List { member: Box<Member>, flattened: bool },
    Map { key: Box<Member>, value: Box<Member>, flattened: bool },
    String,
    Integer,
    Long,
    Float,
    Double,
    Boolean,
    Blob { streaming: bool },
    Timestamp { format: Option<TimestampFormat> },
}

#[derive(Debug, Default)]
pub struct Structure {
    pub members: Vec<Member>,
    /// The member that is the whole body.
    pub payload: Option<&'static str>,
    pub document: bool,
    pub union: bool,
    pub eventstream: bool,
    /// Modelled errors: what is on the wire, and the status.
    pub error: Option<ErrorModel>,
}

#[derive(Debug, Clone)]
pub struct ErrorModel {
    /// The query protocol's (and query-compatible) code, when it is not the shape's name.
    pub code: Option<&'static str>,
    pub status: Option<u16>,
}

#[derive(Debug)]
pub struct Member {
    /// In lists `member`, in maps `key` / `value`.
    pub name: &'static str,
    pub shape: ShapeId,
    pub required: bool,
    pub location: Option<Location>,
    pub location_name: Option<&'static str>,
    /// The ec2 protocol's input name.
    pub query_name: Option<&'static str>,
    pub flattened: bool,
    pub xml_attribute: bool,
    pub xml_namespace: Option<(Option<&'static str>, &'static str)>,
    pub timestamp_format: Option<TimestampFormat>,
    pub streaming: bool,
    pub json_value: bool,
    pub idempotency_token: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    Uri,
    QueryString,
    Header,
    Headers,
    StatusCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampFormat {
    Iso8601,
    Rfc822,
    UnixTimestamp,
}

impl Model {
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operation_index.get(name).map(|at| &self.operations[*at])
    }

    pub fn shape(&self, id: ShapeId) -> &ShapeModel {
        &self.shapes[id]
    }

    pub fn shape_named(&self, name: &str) -> Option<&ShapeModel> {
        self.shape_index.get(name).map(|id| &self.shapes[*id])
    }

    /// The structure behind an operation's input or output; `None` for scalars, which the models never have.
    pub fn structure(&self, id: ShapeId) -> Option<&Structure> {
        if let Kind::Structure(structure) = &self.shapes[id].kind { Some(structure) } else { None }
    }

    /// The model of an error by its shape name or its wire code.
    pub fn error(&self, code: &str) -> Option<&ErrorModel> {
        self.shape_named(code).and_then(ShapeModel::error).or_else(|| {
            self.shapes.iter().filter_map(ShapeModel::error).find(|error| error.code == Some(code))
        })
    }

    /// Parses a stripped model. `service` is the name the model is known by here.
    pub fn parse(service: &str, json: &[u8]) -> Result<Self, serde_json::Error> {
        raw::RawModel::load(json).map(|model| model.build(intern(service)))
    }
}

impl ShapeModel {
    fn error(&self) -> Option<&ErrorModel> {
        if let Kind::Structure(structure) = &self.kind { structure.error.as_ref() } else { None }
    }
}

/// Text that lives as long as the program. Called while a model is parsed, once per model.
fn intern(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// The models the program ships.
pub fn models() -> &'static [&'static str] {
    crate::generated::SERVICES
}

/// The model of a service the program ships, by our name for it.
pub fn model(service: &str) -> Option<&'static Model> {
    static LOADED: OnceLock<Vec<OnceLock<Model>>> = OnceLock::new();
    let at = models().iter().position(|name| *name == service)?;
    let loaded = LOADED.get_or_init(|| models().iter().map(|_| OnceLock::new()).collect());
    Some(loaded[at].get_or_init(|| {
        let json = inflate(crate::generated::MODELS[at]);
        Model::parse(service, &json).expect("the shipped models parse: xtask codegen wrote them")
    }))
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut json)
        .expect("the shipped models are whole gzip files");
    json
}

/// botocore's form of a model, as it is in `api/models`.
mod raw {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Deserialize)]
    pub(super) struct RawModel {
        metadata: RawMetadata,
        operations: BTreeMap<String, RawOperation>,
        shapes: BTreeMap<String, RawShape>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawMetadata {
        api_version: String,
        endpoint_prefix: String,
        signing_name: Option<String>,
        protocol: String,
        #[serde(default)]
        protocols: Vec<String>,
        json_version: Option<String>,
        target_prefix: Option<String>,
        xml_namespace: Option<RawNamespace>,
        aws_query_compatible: Option<serde_json::Value>,
    }

    /// Either `"https://…"` or `{"prefix": …, "uri": …}`.
    #[derive(Clone, Deserialize)]
    #[serde(untagged)]
    enum RawNamespace {
        Uri(String),
        Full { prefix: Option<String>, uri: String },
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawOperation {
        http: RawHttp,
        input: Option<RawInput>,
        output: Option<RawInput>,
        #[serde(default)]
        errors: Vec<RawRef>,
        authtype: Option<String>,
        endpoint: Option<RawEndpoint>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawHttp {
        method: String,
        request_uri: String,
        response_code: Option<u16>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawEndpoint {
        host_prefix: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawInput {
        shape: String,
        location_name: Option<String>,
        result_wrapper: Option<String>,
        xml_namespace: Option<RawNamespace>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawRef {
        shape: String,
        location: Option<String>,
        location_name: Option<String>,
        query_name: Option<String>,
        #[serde(default)]
        flattened: bool,
        #[serde(default)]
        xml_attribute: bool,
        xml_namespace: Option<RawNamespace>,
        timestamp_format: Option<String>,
        #[serde(default)]
        streaming: bool,
        #[serde(default)]
        jsonvalue: bool,
        #[serde(default)]
        idempotency_token: bool,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawShape {
        #[serde(rename = "type")]
        kind: String,
        /// As a list: member order is the wire order of XML and query answers.
        #[serde(default)]
        members: Vec<(String, RawRef)>,
        #[serde(default)]
        required: Vec<String>,
        payload: Option<String>,
        member: Option<RawRef>,
        key: Option<RawRef>,
        value: Option<RawRef>,
        #[serde(default)]
        flattened: bool,
        #[serde(rename = "enum", default)]
        allowed: Vec<String>,
        min: Option<f64>,
        max: Option<f64>,
        pattern: Option<String>,
        timestamp_format: Option<String>,
        /// What members that point here are called, where they have no name of their own.
        location_name: Option<String>,
        xml_namespace: Option<RawNamespace>,
        #[serde(default)]
        streaming: bool,
        #[serde(default)]
        sensitive: bool,
        #[serde(default)]
        document: bool,
        #[serde(default)]
        union: bool,
        #[serde(default)]
        eventstream: bool,
        #[serde(default)]
        exception: bool,
        error: Option<RawError>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawError {
        code: Option<String>,
        http_status_code: Option<u16>,
    }

    fn own(text: Option<String>) -> Option<&'static str> {
        text.map(|text| intern(&text))
    }

    fn format(text: Option<String>) -> Option<TimestampFormat> {
        Some(match text?.as_str() {
            "iso8601" => TimestampFormat::Iso8601,
            "rfc822" => TimestampFormat::Rfc822,
            _ => TimestampFormat::UnixTimestamp,
        })
    }

    fn location(text: &str) -> Option<Location> {
        Some(match text {
            "uri" => Location::Uri,
            "querystring" => Location::QueryString,
            "header" => Location::Header,
            "headers" => Location::Headers,
            "statusCode" => Location::StatusCode,
            _ => return None,
        })
    }

    fn namespace(raw: RawNamespace) -> (Option<&'static str>, &'static str) {
        match raw {
            RawNamespace::Uri(uri) => (None, intern(&uri)),
            RawNamespace::Full { prefix, uri } => (own(prefix), intern(&uri)),
        }
    }

    impl RawMetadata {
        fn protocols(&self) -> Vec<Protocol> {
            let json =
                if self.json_version.as_deref() == Some("1.0") { Protocol::Json10 } else { Protocol::Json11 };
            let mut found = Vec::new();
            for name in std::iter::once(&self.protocol).chain(&self.protocols) {
                let protocol = match name.as_str() {
                    "json" => json,
                    "query" => Protocol::Query,
                    "ec2" => Protocol::Ec2,
                    "rest-json" => Protocol::RestJson,
                    "rest-xml" => Protocol::RestXml,
                    "smithy-rpc-v2-cbor" => Protocol::RpcV2Cbor,
                    _ => continue,
                };
                if !found.contains(&protocol) {
                    found.push(protocol);
                }
            }
            found
        }
    }

    impl RawModel {
        pub(super) fn load(json: &[u8]) -> Result<Self, serde_json::Error> {
            let mut model: Self = serde_json::from_slice(json)?;
            model.name_members();
            Ok(model)
        }

        /// Hands a shape's `locationName` and `xmlNamespace` down to the members that have none, as botocore does.
        fn name_members(&mut self) {
            let names: HashMap<String, (Option<String>, Option<RawNamespace>)> = self
                .shapes
                .iter_mut()
                .map(|(shape, raw)| (shape.clone(), (raw.location_name.take(), raw.xml_namespace.take())))
                .filter(|(_, (name, namespace))| name.is_some() || namespace.is_some())
                .collect();
            for shape in self.shapes.values_mut() {
                let members = shape.members.iter_mut().map(|(_, member)| member);
                for member in members.chain(&mut shape.member).chain(&mut shape.key).chain(&mut shape.value) {
                    if let Some((name, namespace)) = names.get(&member.shape) {
                        member.location_name = member.location_name.take().or_else(|| name.clone());
                        member.xml_namespace = member.xml_namespace.take().or_else(|| namespace.clone());
                    }
                }
            }
        }

        pub(super) fn build(self, service: &'static str) -> Model {
            let protocols = self.metadata.protocols();
            let ids: HashMap<String, ShapeId> =
                self.shapes.keys().enumerate().map(|(id, name)| (name.clone(), id)).collect();
            let shapes: Vec<ShapeModel> =
                self.shapes.into_iter().map(|(name, raw)| shape(intern(&name), raw, &ids)).collect();
            let operations: Vec<Operation> =
                self.operations.into_iter().map(|(name, raw)| operation(intern(&name), raw, &ids)).collect();
            let metadata = self.metadata;
            let endpoint_prefix = intern(&metadata.endpoint_prefix);
            Model {
                service,
                signing_name: own(metadata.signing_name).unwrap_or(endpoint_prefix),
                endpoint_prefix,
                api_version: intern(&metadata.api_version),
                protocols,
                target_prefix: own(metadata.target_prefix),
                xml_namespace: metadata.xml_namespace.map(|raw| namespace(raw).1),
                query_compatible: metadata.aws_query_compatible.is_some(),
                operation_index: operations.iter().enumerate().map(|(at, op)| (op.name, at)).collect(),
                shape_index: shapes.iter().enumerate().map(|(id, shape)| (shape.name, id)).collect(),
                operations,
                shapes,
            }
        }
    }

    fn operation(name: &'static str, raw: RawOperation, ids: &HashMap<String, ShapeId>) -> Operation {
        let id = |raw: &RawInput| ids[&raw.shape];
        let (input, output) = (raw.input.as_ref().map(id), raw.output.as_ref().map(id));
        let (input_location_name, input_xml_namespace) = raw.input.map_or((None, None), |raw| {
            (own(raw.location_name), raw.xml_namespace.map(|raw| namespace(raw).1))
        });
        Operation {
            name,
            http_method: intern(&raw.http.method),
            uri: intern(&raw.http.request_uri),
            response_status: raw.http.response_code,
            input,
            output,
            result_wrapper: raw.output.and_then(|raw| own(raw.result_wrapper)),
            input_location_name,
            input_xml_namespace,
            errors: raw.errors.iter().map(|raw| ids[&raw.shape]).collect(),
            unsigned: raw.authtype.as_deref() == Some("none"),
            host_prefix: raw.endpoint.and_then(|raw| own(raw.host_prefix)),
        }
    }

    fn member(name: &'static str, raw: RawRef, required: bool, ids: &HashMap<String, ShapeId>) -> Member {
        Member {
            name,
            shape: ids[&raw.shape],
            required,
            location: raw.location.as_deref().and_then(location),
            location_name: own(raw.location_name),
            query_name: own(raw.query_name),
            flattened: raw.flattened,
            xml_attribute: raw.xml_attribute,
            xml_namespace: raw.xml_namespace.map(namespace),
            timestamp_format: format(raw.timestamp_format),
            streaming: raw.streaming,
            json_value: raw.jsonvalue,
            idempotency_token: raw.idempotency_token,
        }
    }

    fn shape(name: &'static str, raw: RawShape, ids: &HashMap<String, ShapeId>) -> ShapeModel {
        let inner = |name, raw: Option<RawRef>| {
            Box::new(member(name, raw.expect("lists and maps name their members"), false, ids))
        };
        let kind = match raw.kind.as_str() {
            "structure" => Kind::Structure(Structure {
                error: (raw.exception || raw.error.is_some()).then(|| {
                    let error = raw.error;
                    let (code, status) = error.map_or((None, None), |e| (e.code, e.http_status_code));
                    ErrorModel { code: own(code), status }
                }),
                members: raw
                    .members
                    .into_iter()
                    .map(|(name, of)| {
                        let required = raw.required.contains(&name);
                        member(intern(&name), of, required, ids)
                    })
                    .collect(),
                payload: own(raw.payload),
                document: raw.document,
                union: raw.union,
                eventstream: raw.eventstream,
            }),
            "list" => Kind::List { member: inner("member", raw.member), flattened: raw.flattened },
            "map" => Kind::Map {
                key: inner("key", raw.key),
                value: inner("value", raw.value),
                flattened: raw.flattened,
            },
            "integer" => Kind::Integer,
            "long" => Kind::Long,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "boolean" => Kind::Boolean,
            "blob" => Kind::Blob { streaming: raw.streaming },
            "timestamp" => Kind::Timestamp { format: format(raw.timestamp_format) },
            _ => Kind::String,
        };
        ShapeModel {
            name,
            kind,
            sensitive: raw.sensitive,
            min: raw.min,
            max: raw.max,
            pattern: own(raw.pattern),
            allowed: raw.allowed.iter().map(|value| intern(value)).collect(),
        }
    }
}
