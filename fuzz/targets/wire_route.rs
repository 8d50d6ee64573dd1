#![no_main]
//! Whole requests: which operation, which protocol; gzip; the error that answers what is none.

use ferrogate_wire::{decode, detect, encode_error, validate};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((parts, body)) = ferrogate_fuzz::request(input) else { return };
    for signing_name in [None, Some("ecs"), Some("ec2"), Some("iam"), Some("nobody")] {
        match detect(&parts, body, signing_name) {
            Ok(route) => match decode(route.model, route.protocol, route.operation, &parts, body) {
                Ok(value) => drop(validate(route.model, route.operation, &value)),
                Err(error) => drop(encode_error(Some(route.model), route.protocol, &error, "id")),
            },
            Err(refused) => drop(encode_error(refused.model, refused.protocol, &refused.error, "id")),
        }
    }
});
