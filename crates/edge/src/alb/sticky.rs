//! Stickiness of one request: what its cookies ask for, and what its response sets.

use std::sync::Arc;

use ferrogate_nodeapi::Stickiness;
use http::{HeaderMap, HeaderValue, header};

use super::choose::{Eligible, by_weight};
use super::compiled::{Compiled, Forward, Routed};
use super::cookies::{self, Sealer, Sticky};
use crate::metrics::Metric;
use crate::state::TargetEntry;

/// The target group: by its cookie if the action is sticky, else by weight. `None`: no group has any weight.
pub(crate) fn group<'a>(
    http: &Compiled,
    action: &'a Forward,
    headers: &HeaderMap,
    now_seconds: u64,
) -> Option<&'a Routed> {
    if action.stickiness_seconds.is_some()
        && let Some(sealer) = &http.sealer
        && let Some(sticky) =
            open(sealer, headers, cookies::GROUP_COOKIE, cookies::GROUP_COOKIE_CORS, now_seconds)
        && let Some((routed, _)) = action.groups.iter().find(|(routed, _)| routed.tag == sticky.group)
    {
        return Some(routed);
    }
    by_weight(&action.groups)
}

/// The target: by its cookie while it may be used, else by the group's algorithm.
pub(crate) fn target<'a>(
    http: &Compiled,
    routed: &'a Routed,
    eligible: &Eligible<'a>,
    headers: &HeaderMap,
    now_seconds: u64,
) -> Option<&'a Arc<TargetEntry>> {
    let group = &routed.group;
    if let (Some(sealer), Some(stickiness)) = (&http.sealer, &group.config.stickiness) {
        let sticky = match stickiness {
            Stickiness::LbCookie { .. } => {
                open(sealer, headers, cookies::LB_COOKIE, cookies::LB_COOKIE_CORS, now_seconds)
            }
            // Both cookies must come back: ours, and the application's own.
            Stickiness::AppCookie { name, .. } => cookies::values(headers, name)
                .next()
                .and_then(|_| open(sealer, headers, cookies::APP_COOKIE, cookies::APP_COOKIE, now_seconds)),
            Stickiness::SourceIp => None,
        };
        if let Some(sticky) = sticky.filter(|sticky| sticky.group == routed.tag) {
            if let Some((ip, port)) = sticky.target
                && let Some(target) = eligible.named(ip, port)
            {
                return Some(target);
            }
            group.counters.add(Metric::NonStickyRequests, 1);
        }
    }
    eligible.choose()
}

fn open(sealer: &Sealer, headers: &HeaderMap, name: &str, twin: &str, now_seconds: u64) -> Option<Sticky> {
    let mut all = cookies::values(headers, name).chain(cookies::values(headers, twin));
    all.find_map(|value| sealer.open(value, now_seconds))
}

/// Sets the cookies on a target's response.
pub(crate) fn set(
    http: &Compiled,
    action: &Forward,
    routed: &Routed,
    target: &TargetEntry,
    https: bool,
    now_seconds: u64,
    headers: &mut HeaderMap,
) {
    let Some(sealer) = &http.sealer else { return };
    if let Some(seconds) = action.stickiness_seconds {
        let expires = now_seconds + u64::from(seconds);
        if let Some(value) = sealer.seal(&Sticky { group: routed.tag, target: None, expires }) {
            add(headers, cookies::set(cookies::GROUP_COOKIE, &value, expires, false, https));
            add(headers, cookies::set(cookies::GROUP_COOKIE_CORS, &value, expires, true, https));
        }
    }
    let named = Some((target.key.ip, target.key.port));
    match &routed.group.config.stickiness {
        Some(Stickiness::LbCookie { duration_seconds }) => {
            let expires = now_seconds + u64::from(*duration_seconds);
            if let Some(value) = sealer.seal(&Sticky { group: routed.tag, target: named, expires }) {
                add(headers, cookies::set(cookies::LB_COOKIE, &value, expires, false, https));
                add(headers, cookies::set(cookies::LB_COOKIE_CORS, &value, expires, true, https));
            }
        }
        Some(Stickiness::AppCookie { name, duration_seconds }) if cookies::sets(headers, name) => {
            let expires = now_seconds + u64::from(*duration_seconds);
            let shown = now_seconds + cookies::APP_COOKIE_SECONDS;
            if let Some(value) = sealer.seal(&Sticky { group: routed.tag, target: named, expires }) {
                add(headers, cookies::set(cookies::APP_COOKIE, &value, shown, false, https));
                for cleared in cookies::APP_COOKIES_CLEARED {
                    add(headers, cookies::set(cleared, "_remove_", shown, false, https));
                }
            }
        }
        _ => {}
    }
}

fn add(headers: &mut HeaderMap, line: String) {
    if let Ok(value) = HeaderValue::try_from(line) {
        headers.append(header::SET_COOKIE, value);
    }
}
