//! Availability zones of a region, by AWS's way of naming them. Any region name is served.

/// Zones that each region has here.
pub(crate) const ZONES: [char; 3] = ['a', 'b', 'c'];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// `us-east-1a`
    pub name: String,
    /// `use1-az1`
    pub id: String,
}

pub(crate) fn zones(region: &str) -> Vec<Zone> {
    let short = short_name(region);
    let zone =
        |(index, letter)| Zone { name: format!("{region}{letter}"), id: format!("{short}-az{}", index + 1) };
    ZONES.into_iter().enumerate().map(zone).collect()
}

/// `us-east-1` → `use1`, `ap-southeast-2` → `apse2`, `us-gov-west-1` → `usgw1`: the first part whole, of the others
/// their first letters. A name of one part stands for itself.
fn short_name(region: &str) -> String {
    let mut parts = region.split('-');
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        short.push_str(match part {
            "northeast" => "ne",
            "northwest" => "nw",
            "southeast" => "se",
            "southwest" => "sw",
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => number,
            word => word.get(..1).unwrap_or_default(),
        });
    }
    short
}

/// The regions of the `aws` partition that need no opt-in, and those that do.
pub(crate) const REGIONS: [&str; 34] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_aws() {
        for (region, id) in [
            ("us-east-1", "use1-az1"),
            ("eu-west-1", "euw1-az1"),
            ("ap-southeast-2", "apse2-az1"),
            ("ap-northeast-1", "apne1-az1"),
            ("us-gov-west-1", "usgw1-az1"),
            ("mx-central-1", "mxc1-az1"),
            ("local", "local-az1"),
        ] {
            assert_eq!(zones(region)[0].id, id, "{region}");
        }
        assert_eq!(zones("us-east-1").last().unwrap().name, "us-east-1c");
    }
}
