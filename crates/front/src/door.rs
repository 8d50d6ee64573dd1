//! Doors beside the AWS API: requests that are not signed calls and bring credentials of their own, such as a
//! registry's clients or an ECS Exec session.
//!
//! A door authenticates by a token that an API call gave. What it then does it asks of the services through
//! [`ferrogate_api::Invoke`] as the token's principal, so that policies and the trail see it like any other call.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ferrogate_api::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::listener::UnderWay;

/// Streamed as the client takes it.
pub type DoorBody = UnsyncBoxBody<Bytes, io::Error>;

/// Made known to the front by [`crate::Front::with_doors`]; the first that takes a request has it.
pub trait Door: Send + Sync + 'static {
    /// Whether a request is this door's, told from its head. The host is the request's own: `Host`, or HTTP/2's
    /// authority.
    fn takes(&self, head: &Parts) -> bool;

    /// Limits of time and size are the door's own affair, as is reading the body. An upgrade
    /// (`hyper::upgrade::on`) outlives the request.
    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<DoorBody>>;
}

/// A body whose connection counts as busy until it has been sent.
pub(crate) struct Sending {
    pub(crate) body: DoorBody,
    pub(crate) under_way: Option<UnderWay>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.under_way = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
