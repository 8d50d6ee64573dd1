//! Security policies: ELB's names, and of their protocols and ciphers those that the data plane speaks: TLS 1.2 with
//! forward secrecy and authenticated encryption, and TLS 1.3. What a policy offers beyond that is not offered, and
//! DescribeSSLPolicies does not list it. Policies of which nothing would be left are not served.

pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) protocols: &'static [&'static str],
}

/// What CreateListener takes when none is named.
pub(crate) const DEFAULT: &str = "ELBSecurityPolicy-2016-08";

const TLS_12: &[&str] = &["TLSv1.2"];
const TLS_13: &[&str] = &["TLSv1.3"];
const BOTH: &[&str] = &["TLSv1.2", "TLSv1.3"];

pub(crate) const POLICIES: &[Policy] = &[
    Policy { name: DEFAULT, protocols: TLS_12 },
    Policy { name: "ELBSecurityPolicy-TLS13-1-2-2021-06", protocols: BOTH },
    Policy { name: "ELBSecurityPolicy-TLS13-1-2-Res-2021-06", protocols: BOTH },
    Policy { name: "ELBSecurityPolicy-TLS13-1-2-Ext1-2021-06", protocols: BOTH },
    Policy { name: "ELBSecurityPolicy-TLS13-1-2-Ext2-2021-06", protocols: BOTH },
    Policy { name: "ELBSecurityPolicy-TLS13-1-3-2021-06", protocols: TLS_13 },
    Policy { name: "ELBSecurityPolicy-TLS-1-2-2017-01", protocols: TLS_12 },
    Policy { name: "ELBSecurityPolicy-TLS-1-2-Ext-2018-06", protocols: TLS_12 },
    Policy { name: "ELBSecurityPolicy-FS-1-2-2019-08", protocols: TLS_12 },
    Policy { name: "ELBSecurityPolicy-FS-1-2-Res-2019-08", protocols: TLS_12 },
    Policy { name: "ELBSecurityPolicy-FS-1-2-Res-2020-10", protocols: TLS_12 },
];

const CIPHERS_13: &[&str] =
    &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
const CIPHERS_12: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
];

impl Policy {
    /// In order of preference.
    pub(crate) fn ciphers(&self) -> impl Iterator<Item = &'static str> {
        let of = |version: &str, ciphers: &'static [&'static str]| {
            if self.protocols.contains(&version) { ciphers } else { &[] }
        };
        of("TLSv1.3", CIPHERS_13).iter().chain(of("TLSv1.2", CIPHERS_12)).copied()
    }
}

pub(crate) fn find(name: &str) -> Option<&'static Policy> {
    POLICIES.iter().find(|policy| policy.name == name)
}
