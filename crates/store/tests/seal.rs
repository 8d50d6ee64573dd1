//! The key file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use ferrogate_store::{SealError, Sealer};
use proptest::prelude::*;

#[test]
fn the_key_is_made_once_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seal.key");
    let sealed = Sealer::open(&path).unwrap().seal(b"secret", "here");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Sealer::open(&path).unwrap().unseal(&sealed, "here").unwrap(), b"secret");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seal.key");
    Sealer::open(&path).unwrap();
    for mode in [0o640, 0o604, 0o700, 0o620] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Sealer::open(&path).unwrap_err();
        assert!(matches!(error, SealError::Exposed { mode: said, .. } if said == mode), "{error}");
        assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    Sealer::open(&path).unwrap();
}

#[test]
fn a_key_of_another_length_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seal.key");
    for bytes in [0, 31, 33, 4096] {
        fs::write(&path, vec![1; bytes]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = Sealer::open(&path).unwrap_err();
        assert!(matches!(error, SealError::Damaged { bytes: said, .. } if said == bytes), "{error}");
    }
}

#[test]
fn what_another_key_file_sealed_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let sealer = |name| Sealer::open(&folder.path().join(name)).unwrap();
    let sealed = sealer("a").seal(b"secret", "here");
    assert!(matches!(sealer("b").unseal(&sealed, "here"), Err(SealError::Open)));
    assert!(matches!(sealer("a").unseal(&sealed, "there"), Err(SealError::Open)));
    assert_eq!(sealer("a").unseal(&sealed, "here").unwrap(), b"secret");
}

#[test]
fn no_message_and_no_debug_shows_a_key_or_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seal.key");
    fs::write(&path, "hunter2").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let error = Sealer::open(&path).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert_eq!(format!("{:?}", Sealer::ephemeral()), "Sealer(…)");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_secret_opens_in_its_place_and_only_there(
        secret in prop::collection::vec(any::<u8>(), 0..600),
        place in ".{0,40}",
        other in ".{0,40}",
    ) {
        let sealer = Sealer::ephemeral();
        let sealed = sealer.seal(&secret, &place);
        prop_assert_eq!(sealer.unseal(&sealed, &place).unwrap(), secret);
        prop_assert_eq!(sealer.unseal(&sealed, &other).is_ok(), other == place);
        prop_assert!(Sealer::ephemeral().unseal(&sealed, &place).is_err());
    }

    #[test]
    fn no_damage_opens(
        secret in prop::collection::vec(any::<u8>(), 0..80),
        at in any::<prop::sample::Index>(),
        byte in any::<char>(),
    ) {
        let sealer = Sealer::ephemeral();
        let sealed = sealer.seal(&secret, "here");
        let mut damaged: Vec<char> = sealed.chars().collect();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        let damaged: String = damaged.into_iter().collect();
        prop_assert_eq!(sealer.unseal(&damaged, "here").is_ok(), damaged == sealed);
    }

    #[test]
    fn whatever_is_found_instead_is_refused(found in ".{0,200}") {
        prop_assert!(matches!(Sealer::ephemeral().unseal(&found, "here"), Err(SealError::Open)));
        let versioned = format!("v1:{found}");
        prop_assert!(matches!(Sealer::ephemeral().unseal(&versioned, "here"), Err(SealError::Open)));
    }
}
