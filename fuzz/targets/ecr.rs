#![no_main]
//! Manifests and lifecycle policies as they are pushed to ECR, and hosts that name a registry.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    ferrogate_ecr::fuzzing::manifest(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    ferrogate_ecr::fuzzing::lifecycle(text);
    if let Some(name) = ferrogate_ecr::RegistryName::parse(text) {
        assert_eq!(ferrogate_ecr::RegistryName::parse(&name.aws()), Some(name));
    }
});
