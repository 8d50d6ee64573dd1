//! `eval "$(ferrogate env)"`

use anyhow::{Result, bail};

use crate::Place;
use crate::data::{DataDir, Endpoint, RootKey};

pub(crate) fn run(place: &Place) -> Result<()> {
    let data = DataDir::new(&place.data_dir)?;
    let (Some(endpoint), Some(key)) = (data.read_json::<Endpoint>(Endpoint::FILE)?, RootKey::kept(&data)?)
    else {
        bail!(
            "there is no Ferrogate in {}: start one with `ferrogate up`, or name another --data-dir",
            data.path().display()
        );
    };
    for (name, value) in [
        ("AWS_ENDPOINT_URL", endpoint.url()),
        ("AWS_ACCESS_KEY_ID", key.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", key.secret_access_key),
        ("AWS_REGION", endpoint.region.clone()),
        ("AWS_DEFAULT_REGION", endpoint.region),
    ] {
        println!("export {name}={}", quoted(&value));
    }
    println!("unset AWS_SESSION_TOKEN AWS_PROFILE");
    Ok(())
}

/// For a POSIX shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_survive() {
        assert_eq!(super::quoted("a'b"), r"'a'\''b'");
    }
}
