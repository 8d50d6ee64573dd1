//! What a task finds at `http://169.254.170.2`, from inside its own network only.
//!
//! | path | answer |
//! |---|---|
//! | `/v2/credentials/<id>` | the task role's credentials ([`credentials`]) |
//! | `/v3/<id>`, `/v3/<id>/task`, `…/taskWithTags` | metadata of the container, of the task ([`metadata`]) |
//! | `/v4/<id>`, `/v4/<id>/task`, `…/taskWithTags` | the same with all that version 4 added |
//! | `/v3/<id>/stats`, `…/task/stats`, `/v4/…` | figures in the Docker API's shape ([`stats`]) |
//! | `/api/<id>/task-protection/v1/state` | scale-in protection ([`protection`]) |
//!
//! `<id>` is a container's runtime id. Every task has a server of its own, which knows this one task: another task's
//! ids are unknown to it. Paths, codes and texts are those of the ECS agent.
//! Source: ECS developer guide, "Task metadata endpoint version 4 for tasks on Fargate", and the agent's own answers.

mod credentials;
mod limit;
mod metadata;
mod protection;
mod route;
mod stats;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrogate_nodeapi::{ControlPlane, DesiredStatus};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::record::Record;
use limit::Bucket;
use route::{Of, Route, Version};
pub(crate) use stats::{Figures, OfTask};

pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 170, 2), 80);
/// Connections of one task at a time.
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 8 << 10;
/// As the agent's task metadata server: `ECS_TASK_METADATA_RPS_LIMIT`.
const REQUESTS_PER_SECOND: f64 = 40.0;
const REQUESTS_BURST: f64 = 60.0;
/// After an accept that failed (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The variables that lead a container here; nothing a task definition says replaces them.
pub(crate) fn environment(record: &Record, runtime_id: &str) -> Vec<(String, String)> {
    let base = format!("http://{}", ADDRESS.ip());
    let mut all = vec![
        ("AWS_EXECUTION_ENV".to_owned(), "AWS_ECS_FARGATE".to_owned()),
        ("ECS_AGENT_URI".to_owned(), format!("{base}/api/{runtime_id}")),
        ("ECS_CONTAINER_METADATA_URI".to_owned(), format!("{base}/v3/{runtime_id}")),
        ("ECS_CONTAINER_METADATA_URI_V4".to_owned(), format!("{base}/v4/{runtime_id}")),
    ];
    if record.assignment.has_task_role {
        let uri = format!("/v2/credentials/{}", record.credentials_id);
        all.push(("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI".to_owned(), uri));
    }
    all
}

/// One task's endpoints.
pub(crate) struct Endpoints {
    control: Arc<dyn ControlPlane>,
    /// What the actor wrote last.
    seen: watch::Receiver<Arc<Record>>,
    desired: watch::Receiver<DesiredStatus>,
    credentials: credentials::Keeper,
    stats: stats::Sampler,
    bucket: Mutex<Bucket>,
}

type Answer = Response<Full<Bytes>>;

impl Endpoints {
    pub(crate) fn new(
        control: Arc<dyn ControlPlane>,
        seen: watch::Receiver<Arc<Record>>,
        desired: watch::Receiver<DesiredStatus>,
        figures: Arc<dyn Figures>,
    ) -> Self {
        Self {
            control,
            seen,
            desired,
            credentials: credentials::Keeper::default(),
            stats: stats::Sampler::new(figures),
            bucket: Mutex::new(Bucket::new(REQUESTS_PER_SECOND, REQUESTS_BURST)),
        }
    }

    /// Serves until it is dropped, and its connections with it.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let task_arn = self.record().assignment.task_arn.clone();
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, task_arn, "the task's endpoints cannot be served");
                return;
            }
        };
        let endpoints = Arc::new(self);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let endpoints = Arc::clone(&endpoints);
            connections.spawn(async move {
                let service = hyper::service::service_fn(|request: Request<Incoming>| {
                    let endpoints = Arc::clone(&endpoints);
                    async move { Ok::<_, std::convert::Infallible>(endpoints.answer(request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away in the middle is nobody's fault.
                let _ = connection.await;
                drop(slot);
            });
        }
    }

    fn record(&self) -> Arc<Record> {
        Arc::clone(&self.seen.borrow())
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !self.bucket.lock().expect("limit lock").take(Instant::now()) {
            return text(StatusCode::TOO_MANY_REQUESTS, "You have reached maximum request limit.");
        }
        let (parts, body) = request.into_parts();
        if let Some(clean) = route::cleaned(parts.uri.path()) {
            return moved(&clean, parts.uri.query());
        }
        let Some(route) = Route::of(parts.uri.path(), parts.uri.query()) else {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        match route {
            Route::Credentials { version, id } => self.credentials(version, &id).await,
            Route::Protection { id } => match parts.method {
                Method::GET | Method::PUT => self.protection(&id, &parts.method, body).await,
                _ => Response::builder()
                    .status(StatusCode::METHOD_NOT_ALLOWED)
                    .body(Full::default())
                    .unwrap_or_default(),
            },
            Route::Metadata { version, id, of } => match of {
                Of::Container | Of::Task => self.metadata(version, &id, of).await,
                Of::ContainerStats | Of::TaskStats => self.stats(version, &id, of).await,
            },
        }
    }

    async fn credentials(&self, version: u8, id: &str) -> Answer {
        let record = self.record();
        let now = jiff::Timestamp::now();
        match self.credentials.answer(&*self.control, &record, version, id, now).await {
            Ok(credentials) => json(StatusCode::OK, &credentials),
            Err(refusal) => json(refusal.status, &refusal.body),
        }
    }

    async fn metadata(&self, version: Version, id: &str, of: Of) -> Answer {
        let record = self.record();
        let Some(container) = record.assignment.containers.iter().find(|c| c.runtime_id == id) else {
            let (status, message) = route::unknown(version, of, id);
            return json(status, &message);
        };
        let desired = *self.desired.borrow();
        match of {
            Of::Container => json(StatusCode::OK, &metadata::container(version, &record, container, desired)),
            _ => {
                let disk = self.stats.disk(Instant::now()).await;
                json(StatusCode::OK, &metadata::task(version, &record, desired, disk))
            }
        }
    }

    async fn stats(&self, version: Version, id: &str, of: Of) -> Answer {
        let record = self.record();
        let Some(container) = record.assignment.containers.iter().find(|c| c.runtime_id == id) else {
            let (status, message) = route::unknown(version, of, id);
            return json(status, &message);
        };
        match of {
            Of::ContainerStats => match self.stats.container(container, version, Instant::now()).await {
                Some(stats) => json(StatusCode::OK, &stats),
                None => json(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("Unable to get container stats for: {}", container.runtime_id),
                ),
            },
            _ => match self.stats.task(&record.assignment.containers, version, Instant::now()).await {
                Some(stats) => json(StatusCode::OK, &stats),
                None => json(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("Unable to get task stats for: {}", record.assignment.task_arn),
                ),
            },
        }
    }

    async fn protection(&self, id: &str, method: &Method, body: Incoming) -> Answer {
        let record = self.record();
        let asked = if *method == Method::PUT {
            match read(body).await.and_then(|body| protection::asked(&body)) {
                Some(asked) => Some(asked),
                None => {
                    let (status, body) = protection::undecodable();
                    return json(status, &body);
                }
            }
        } else {
            None
        };
        let known = record.assignment.containers.iter().any(|c| c.runtime_id == id);
        let (status, body) =
            protection::answer(&*self.control, known.then_some(&record.assignment), asked).await;
        json(status, &body)
    }
}

/// `None`: it does not come, or is too long.
async fn read(body: Incoming) -> Option<Bytes> {
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    Some(body.ok()?.ok()?.to_bytes())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => respond(status, "application/json", body),
        // As the agent where marshalling fails.
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", b"{}".to_vec()),
    }
}

fn text(status: StatusCode, body: &str) -> Answer {
    respond(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn moved(path: &str, query: Option<&str>) -> Answer {
    let to = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut answer = text(StatusCode::MOVED_PERMANENTLY, "");
    if let Ok(to) = HeaderValue::from_str(&to) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

/// An object without the members that are null: Go's `omitempty`.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

#[cfg(test)]
mod tests;
