//! The key file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use ferrogate_store::{SealError, Sealer};

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
