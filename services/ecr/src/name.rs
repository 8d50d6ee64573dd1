//! The names a registry goes by.

/// `<account>.dkr.ecr.<region>.<domain>`: the registry of an account in a region.
///
/// Three ways lead to it over HTTP:
/// - the name as the host, its domain `amazonaws.com` or `localhost` with any port;
/// - the name as the first part of the path on any other host of this machine, which clients that cannot resolve the
///   name use: `http://127.0.0.1:4566/v2/123456789012.dkr.ecr.eu-west-1.amazonaws.com/app/manifests/1`;
/// - no name at all on such a host: this account's registry in the default region, `127.0.0.1:4566/app:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryName {
    pub account: String,
    pub region: String,
}

impl RegistryName {
    /// From a host, with or without a port; `None`: not such a name.
    pub fn parse(host: &str) -> Option<Self> {
        let (account, rest) = host.split_once(".dkr.ecr.")?;
        let (region, domain) = rest.split_once('.')?;
        let (domain, port) = domain.split_once(':').unwrap_or((domain, "0"));
        let fits = account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && !region.is_empty()
            && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && matches!(domain, "amazonaws.com" | "localhost")
            && port.parse::<u16>().is_ok();
        fits.then(|| Self { account: account.to_owned(), region: region.to_owned() })
    }

    /// As AWS writes it, whichever way it came.
    pub fn aws(&self) -> String {
        self.under("amazonaws.com")
    }

    pub(crate) fn under(&self, domain: &str) -> String {
        format!("{}.dkr.ecr.{}.{domain}", self.account, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for host in [
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.localhost",
            "123456789012.dkr.ecr.eu-west-1.localhost:4566",
        ] {
            let name = RegistryName::parse(host).unwrap();
            assert_eq!(name.aws(), "123456789012.dkr.ecr.eu-west-1.amazonaws.com");
        }
        for host in [
            "localhost:4566",
            "12345.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.eu-west-1.localhost:x",
            "123456789012.dkr.ecr..localhost",
            "123456789012.dkr.ecr.EU.localhost",
        ] {
            assert_eq!(RegistryName::parse(host), None, "{host}");
        }
    }
}
