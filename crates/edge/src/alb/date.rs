//! The `Date` of responses, written once a second by each thread.

use std::cell::RefCell;

use jiff::Timestamp;

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(super) fn text(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Gives the present date, as a header has it.
pub(super) fn with<T>(take: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static DATE: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    DATE.with_borrow_mut(|(second, date)| {
        let now = Timestamp::now();
        if *second != now.as_second() {
            (*second, *date) = (now.as_second(), text(now));
        }
        take(date.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_date_as_http_has_it() {
        let at = "1994-11-06T08:49:37.9Z".parse().unwrap();
        assert_eq!(super::text(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        super::with(|date| assert_eq!(date.len(), 29));
    }
}
