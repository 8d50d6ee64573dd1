//! The task role's credentials at `http://169.254.170.2/v2/credentials/<id>`, inside the task's network only.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrogate_nodeapi::{ControlPlane, ControlPlaneError};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::sync::Semaphore;

pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 170, 2), 80);
/// Connections of one task at a time.
const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn relative_uri(credentials_id: &str) -> String {
    format!("/v2/credentials/{credentials_id}")
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    control: Arc<dyn ControlPlane>,
    task_arn: String,
    credentials_id: String,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, task_arn, "the credentials endpoint cannot be served");
            return;
        }
    };
    let path: Arc<str> = relative_uri(&credentials_id).into();
    let task_arn: Arc<str> = task_arn.into();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (control, task_arn, path) = (Arc::clone(&control), Arc::clone(&task_arn), Arc::clone(&path));
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let (control, task_arn, path) =
                    (Arc::clone(&control), Arc::clone(&task_arn), Arc::clone(&path));
                async move {
                    Ok::<_, std::convert::Infallible>(
                        answer(&*control, &task_arn, &path, request.uri().path()).await,
                    )
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
            drop(slot);
        });
    }
}

/// The endpoint's answers and error codes are those of the ECS agent.
async fn answer(
    control: &dyn ControlPlane,
    task_arn: &str,
    path: &str,
    asked: &str,
) -> Response<Full<Bytes>> {
    if asked != path {
        let (code, message) = match asked.strip_prefix("/v2/credentials") {
            Some("" | "/") => ("NoIdInRequest", "CredentialsV2Request: No Credential ID in the request"),
            Some(_) => ("InvalidIdInRequest", "CredentialsV2Request: Credentials not found"),
            None => {
                return respond(
                    StatusCode::NOT_FOUND,
                    &json!({"code": "NotFound", "message": "no such path"}),
                );
            }
        };
        return respond(
            StatusCode::BAD_REQUEST,
            &json!({"code": code, "message": message, "HTTPErrorCode": 400}),
        );
    }
    match control.task_role_credentials(task_arn).await {
        Ok(Some(credentials)) => respond(
            StatusCode::OK,
            &json!({
                "RoleArn": credentials.role_arn,
                "AccessKeyId": credentials.access_key_id,
                "SecretAccessKey": credentials.secret_access_key,
                "Token": credentials.token,
                "Expiration": credentials.expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }),
        ),
        Ok(None) => respond(
            StatusCode::BAD_REQUEST,
            &json!({"code": "NoCredentialsAssociated", "message": "the task has no task role", "HTTPErrorCode": 400}),
        ),
        Err(ControlPlaneError::Refused { code, message }) => respond(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({"code": "CredentialsUninitialized", "message": format!("{code}: {message}"), "HTTPErrorCode": 500}),
        ),
        Err(error) => respond(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"code": "CredentialsUninitialized", "message": error.to_string(), "HTTPErrorCode": 503}),
        ),
    }
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
