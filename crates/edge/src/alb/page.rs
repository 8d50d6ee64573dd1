//! What ALB itself answers (ELB user guide, "Troubleshoot", HTTP error codes): nginx-like pages, `Server: awselb/2.0`.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::body::ResponseBody;
use super::record::Record;

pub(crate) const SERVER: HeaderValue = HeaderValue::from_static("awselb/2.0");
const HTML: HeaderValue = HeaderValue::from_static("text/html");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

macro_rules! pages {
    ($($status:literal $title:literal,)*) => {
        fn html(status: u16) -> Option<&'static str> {
            match status {
                $($status => Some(concat!(
                    "<html>\r\n<head><title>", $status, " ", $title, "</title></head>\r\n<body>\r\n<center><h1>",
                    $status, " ", $title, "</h1></center>\r\n</body>\r\n</html>\r\n",
                )),)*
                _ => None,
            }
        }
    };
}

pages! {
    301 "Moved Permanently",
    302 "Found",
    400 "Bad Request",
    405 "Not Allowed",
    408 "Request Time-out",
    414 "Request-URI Too Large",
    463 "",
    464 "",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Temporarily Unavailable",
    504 "Gateway Time-out",
    505 "HTTP Version Not Supported",
    507 "Insufficient Storage",
}

/// Whether the client's connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepAlive,
    Close,
}

/// An error page.
pub(crate) fn error(status: u16, after: After, mut record: Box<Record>) -> Response<ResponseBody> {
    record.answered_here(status);
    let body = Bytes::from_static(html(status).unwrap_or_default().as_bytes());
    let mut response = own(status, HTML, body, record);
    // HTTP/2 has no such header, and needs none: its streams end by themselves.
    if after == After::Close {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    response
}

pub(crate) fn redirect(
    status: u16,
    location: HeaderValue,
    mut record: Box<Record>,
) -> Response<ResponseBody> {
    record.answered_here(status);
    let body = Bytes::from_static(html(status).unwrap_or_default().as_bytes());
    let mut response = own(status, HTML, body, record);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

pub(crate) fn fixed(
    status: u16,
    content_type: HeaderValue,
    body: Bytes,
    mut record: Box<Record>,
) -> Response<ResponseBody> {
    record.answered_here(status);
    own(status, content_type, body, record)
}

fn own(
    status: u16,
    content_type: HeaderValue,
    body: Bytes,
    mut record: Box<Record>,
) -> Response<ResponseBody> {
    let length = body.len();
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    parts.headers.insert(header::SERVER, SERVER);
    parts.headers.insert(header::CONTENT_TYPE, content_type);
    parts.headers.insert(header::CONTENT_LENGTH, length.into());
    record.head_sent(&parts.headers);
    Response::from_parts(parts, ResponseBody::own(body, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_elb_writes_them() {
        let page = html(503).unwrap();
        assert!(page.starts_with(
            "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
        ));
        assert!(page.ends_with(
            "<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n</body>\r\n</html>\r\n"
        ));
    }
}
