//! Sticky cookies: sealed, so that a client learns no address from them and makes none up.
//!
//! The key comes from the load balancer's ARN, whose last part is random and known only through the API: every zone of a
//! balancer, and each of its processes after a restart, opens what another one sealed.

use std::net::{IpAddr, Ipv6Addr};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

pub(crate) const LB_COOKIE: &str = "AWSALB";
pub(crate) const LB_COOKIE_CORS: &str = "AWSALBCORS";
pub(crate) const GROUP_COOKIE: &str = "AWSALBTG";
pub(crate) const GROUP_COOKIE_CORS: &str = "AWSALBTGCORS";
/// The first of four; the others are cleared.
pub(crate) const APP_COOKIE: &str = "AWSALBAPP-0";
pub(crate) const APP_COOKIES_CLEARED: [&str; 3] = ["AWSALBAPP-1", "AWSALBAPP-2", "AWSALBAPP-3"];
/// "Expires in 7 days, cannot be changed": the duration of stickiness is inside.
pub(crate) const APP_COOKIE_SECONDS: u64 = 7 * 24 * 3600;

/// Nothing of ours is longer.
const COOKIE_BYTES_MAX: usize = 512;
const NONCE_BYTES: usize = 12;

/// Seals and opens the cookies of one balancer.
pub(crate) struct Sealer {
    key: LessSafeKey,
}

/// What a cookie says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sticky {
    /// A short name of the target group: another group's cookie names nothing here.
    pub(crate) group: u64,
    /// `None` in the cookie of a target group.
    pub(crate) target: Option<(IpAddr, u16)>,
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

/// Of a target group, for cookies.
pub(crate) fn group_tag(target_group_arn: &str) -> u64 {
    let hash = digest(&SHA256, target_group_arn.as_bytes());
    hash.as_ref().iter().take(8).fold(0, |tag, byte| tag << 8 | u64::from(*byte))
}

impl Sealer {
    pub(crate) fn new(load_balancer_arn: &str) -> Option<Sealer> {
        let seed = digest(&SHA256, format!("sticky cookies of {load_balancer_arn}").as_bytes());
        Some(Sealer { key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, seed.as_ref()).ok()?) })
    }

    /// `None` when there is no randomness to be had: the request is not sticky then.
    pub(crate) fn seal(&self, sticky: &Sticky) -> Option<String> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&sticky.expires.to_be_bytes());
        body.extend_from_slice(&sticky.group.to_be_bytes());
        if let Some((ip, port)) = sticky.target {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            body.extend_from_slice(&ip.octets());
            body.extend_from_slice(&port.to_be_bytes());
        }
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, Aad::empty(), &mut body).ok()?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut body);
        Some(STANDARD.encode(sealed))
    }

    /// `None`: not ours, or over.
    pub(crate) fn open(&self, value: &str, now_seconds: u64) -> Option<Sticky> {
        if value.len() > COOKIE_BYTES_MAX {
            return None;
        }
        let mut sealed = STANDARD.decode(value).ok()?;
        let (nonce, body) = sealed.split_at_mut_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let body = self.key.open_in_place(nonce, Aad::empty(), body).ok()?;
        let (expires, rest) = body.split_first_chunk::<8>()?;
        let (group, rest) = rest.split_first_chunk::<8>()?;
        let target = match rest.split_first_chunk::<16>() {
            Some((ip, port)) => {
                let ip = Ipv6Addr::from(*ip).to_canonical();
                Some((ip, u16::from_be_bytes(port.try_into().ok()?)))
            }
            None => None,
        };
        let sticky =
            Sticky { expires: u64::from_be_bytes(*expires), group: u64::from_be_bytes(*group), target };
        (sticky.expires > now_seconds).then_some(sticky)
    }
}

/// All values of a cookie, the first one first; a browser with two paths sends two.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(move |pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// Whether a response sets the cookie.
pub(crate) fn sets(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(header::SET_COOKIE).iter().any(|line| {
        let key = line.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        key.trim_ascii() == name.as_bytes()
    })
}

/// A `Set-Cookie` value; the CORS twin of a cookie has `SameSite=None`, and on HTTPS `Secure`.
pub(crate) fn set(name: &str, value: &str, expires: u64, cors: bool, https: bool) -> String {
    let time = i64::try_from(expires).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_second(time).unwrap_or(jiff::Timestamp::MAX);
    let at = at.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let more = match (cors, https) {
        (true, true) => "; SameSite=None; Secure",
        (true, false) => "; SameSite=None",
        (false, _) => "",
    };
    format!("{name}={value}; Expires={at}; Path=/{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn sealer(arn: &str) -> Sealer {
        Sealer::new(arn).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_the_same_balancer_until_it_is_over() {
        for ip in ["10.0.1.7", "2001:db8::7"] {
            let sticky = Sticky {
                group: group_tag("tg"),
                target: Some((ip.parse().unwrap(), 8080)),
                expires: NOW + 10,
            };
            let value = sealer("lb/1").seal(&sticky).unwrap();
            assert_eq!(sealer("lb/1").open(&value, NOW), Some(sticky));
            assert_eq!(sealer("lb/1").open(&value, NOW + 10), None);
            assert_eq!(sealer("lb/2").open(&value, NOW), None);
            assert!(!value.contains(ip));
        }
        let group = Sticky { group: 7, target: None, expires: NOW + 1 };
        let value = sealer("lb/1").seal(&group).unwrap();
        assert_eq!(sealer("lb/1").open(&value, NOW), Some(group));
    }

    #[test]
    fn what_a_client_makes_up_is_nothing() {
        for value in ["", "AAAA", "_remove_", "!", &"A".repeat(4096), &"A".repeat(100)] {
            assert_eq!(sealer("lb/1").open(value, NOW), None);
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; AWSALB=x=y ;AWSALBCORS=z".parse().unwrap());
        headers.append(header::COOKIE, "AWSALB=second".parse().unwrap());
        assert_eq!(values(&headers, LB_COOKIE).collect::<Vec<_>>(), ["x=y", "second"]);
        let line = set(LB_COOKIE_CORS, "v", 0, true, true);
        assert_eq!(
            line,
            "AWSALBCORS=v; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; SameSite=None; Secure"
        );
        headers.append(header::SET_COOKIE, "sid=1; Path=/".parse().unwrap());
        assert!(sets(&headers, "sid") && !sets(&headers, "si"));
    }
}
