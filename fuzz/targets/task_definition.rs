#![no_main]
//! RegisterTaskDefinition as JSON. What is kept of a definition can be registered again (as tools do that describe,
//! change and register), and stays as it is.

use ferrogate_api::schema::{self, Protocol};
use ferrogate_api::{Shape, ecs};
use ferrogate_wire::{decode, encode};
use http::Request;

fn read(body: &[u8]) -> Option<ecs::RegisterTaskDefinitionRequest> {
    let model = schema::model("ecs").expect("the model");
    let operation = model.operation("RegisterTaskDefinition").expect("the operation");
    let parts = Request::new(()).into_parts().0;
    let value = decode(model, Protocol::Json11, operation, &parts, body).ok()?;
    ferrogate_wire::validate(model, operation, &value).ok()?;
    Some(ecs::RegisterTaskDefinitionRequest::from_value(value).expect("the codec checked the types"))
}

/// As RegisterTaskDefinition answers it, without its frame.
fn written(definition: &ecs::TaskDefinition) -> Vec<u8> {
    let model = schema::model("ecs").expect("the model");
    let operation = model.operation("RegisterTaskDefinition").expect("the operation");
    let output = ecs::RegisterTaskDefinitionResponse {
        task_definition: Some(definition.clone()),
        ..Default::default()
    };
    let body = encode(model, Protocol::Json11, operation, &output.to_value(), "id").into_body();
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    serde_json::to_vec(&answer["taskDefinition"]).expect("JSON")
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some(input) = read(input) else { return };
    let kept = match ferrogate_ecs::fuzzing::checked(input) {
        Ok(kept) => kept,
        Err(error) => return assert!(!error.message.is_empty()),
    };
    let again = read(&written(&kept)).expect("an answer is a request");
    match ferrogate_ecs::fuzzing::checked(again) {
        Ok(again) => assert_eq!(kept, again),
        // The defaults made it longer than a definition may be.
        Err(error) => assert!(error.message.contains("Max allowed length"), "{error}: {kept:?}"),
    }
});
