//! What may be tried once more. Pure.
//!
//! Twice at most, with another instance where there is one. Nothing is said twice that may have been understood:
//!
//! | what happened | repeated |
//! |---|---|
//! | no connection; it was closed before the request was on its way; refused unseen (HTTP/2 `REFUSED_STREAM`) | every request whose body is still here |
//! | reset before the response began; 503 | requests that mean the same twice (RFC 9110, 9.2.2), without a body |
//! | anything after the response began; every other response | never |

use http::Method;

/// Service Connect: two retries.
pub const ATTEMPTS_MAX: usize = 3;

/// Why an attempt gave no response to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Connect,
    /// The connection ended before anything of the request was on it.
    Unsent,
    /// The server says that it has done nothing about it.
    Refused,
    /// The connection or stream ended before the response began.
    Reset,
    /// The response was 503.
    Unavailable,
}

/// Whether the request may go to an instance once more.
pub fn may_repeat(failure: Failure, method: &Method, body_is_here: bool) -> bool {
    let unseen = matches!(failure, Failure::Connect | Failure::Unsent | Failure::Refused);
    body_is_here && (unseen || method.is_idempotent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        use Failure::*;
        for failure in [Connect, Unsent, Refused] {
            assert!(may_repeat(failure, &Method::POST, true) && may_repeat(failure, &Method::GET, true));
            assert!(!may_repeat(failure, &Method::GET, false));
        }
        for failure in [Reset, Unavailable] {
            assert!(may_repeat(failure, &Method::GET, true) && may_repeat(failure, &Method::PUT, true));
            assert!(!may_repeat(failure, &Method::POST, true) && !may_repeat(failure, &Method::PATCH, true));
            assert!(!may_repeat(failure, &Method::PUT, false));
        }
    }
}
