//! An application load balancer on 127.0.0.1: real sockets, real targets, clients down to the byte.

mod configuration;
mod faults;
mod forwarding;
mod hostile;
mod logs;
mod lying_targets;
mod mutual_tls;
mod stickiness;
mod support;
mod tls_and_http2;
mod wire;
