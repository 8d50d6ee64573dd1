//! `arn:partition:service:region:account:resource`

use std::fmt;
use std::str::FromStr;

/// An Amazon Resource Name. The resource part may hold `/` and `:` and is not split here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arn {
    pub partition: String,
    pub service: String,
    pub region: String,
    pub account: String,
    pub resource: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an ARN: expected arn:partition:service:region:account:resource")]
pub struct ArnError(pub String);

impl Arn {
    /// An ARN in the `aws` partition.
    pub fn new(service: &str, region: &str, account: &str, resource: impl Into<String>) -> Self {
        Self {
            partition: "aws".into(),
            service: service.into(),
            region: region.into(),
            account: account.into(),
            resource: resource.into(),
        }
    }

    /// `cluster` of `cluster/default`, `log-group` of `log-group:/ecs`.
    pub fn resource_type(&self) -> &str {
        self.resource.split(['/', ':']).next().unwrap_or_default()
    }

    /// What follows the type: `default` of `cluster/default`, `default/abc` of `task/default/abc`.
    pub fn resource_id(&self) -> &str {
        self.resource.split_once(['/', ':']).map_or(self.resource.as_str(), |(_, id)| id)
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, service, region, account, resource } = self;
        write!(f, "arn:{partition}:{service}:{region}:{account}:{resource}")
    }
}

impl FromStr for Arn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, ArnError> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().map(str::to_owned);
        let (Some(prefix), Some(partition), Some(service), Some(region), Some(account), Some(resource)) =
            (next(), next(), next(), next(), next(), next())
        else {
            return Err(ArnError(text.into()));
        };
        if prefix != "arn" || partition.is_empty() || service.is_empty() || resource.is_empty() {
            return Err(ArnError(text.into()));
        }
        Ok(Self { partition, service, region, account, resource })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for text in [
            "arn:aws:ecs:us-east-1:123456789012:task/default/0123",
            "arn:aws:iam::123456789012:role/path/name",
            "arn:aws:logs:eu-west-1:123456789012:log-group:/ecs/app:*",
        ] {
            assert_eq!(text.parse::<Arn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "arn", "arn:aws:ecs:r:a", "arn:aws:ecs:r:a:", "urn:aws:ecs:r:a:x", "arn::ecs:r:a:x"]
        {
            assert!(text.parse::<Arn>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_of_the_resource() {
        let arn = Arn::new("ecs", "us-east-1", "123456789012", "task/default/0123");
        assert_eq!((arn.resource_type(), arn.resource_id()), ("task", "default/0123"));
    }
}
