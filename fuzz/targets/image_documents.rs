#![no_main]
//! What a registry says: manifests, indexes, configs, challenges; and references as people write them.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    ferrogate_image::fuzzing::documents(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(reference) = ferrogate_image::ImageRef::parse(text) {
        let written = reference.to_string();
        let again = ferrogate_image::ImageRef::parse(&written)
            .unwrap_or_else(|error| panic!("'{text}' became '{written}', which is none: {error}"));
        assert_eq!(reference, again, "{text}");
        assert!(!reference.registry().contains('/') && !reference.repository().contains(".."));
    }
    let _ = ferrogate_image::Mirror::parse(text);
    if let Ok(digest) = ferrogate_image::Digest::parse(text) {
        assert_eq!(digest.as_str(), text);
    }
});
