//! The CLI's own AWS client: signed JSON calls to the program that runs, and its admin socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ferrogate_sigv4::{Credentials, Request, SignBody};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{DataDir, Endpoint, RootKey};

const ANSWER_BYTES_MAX: usize = 32 << 20;
const ADMIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Signs as root.
pub(crate) struct Client {
    endpoint: Endpoint,
    key: RootKey,
    http: HttpClient<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Client {
    /// For the Ferrogate of this data folder.
    pub(crate) fn of(data: &DataDir) -> Result<Self> {
        let (Some(endpoint), Some(key)) = (data.read_json::<Endpoint>(Endpoint::FILE)?, RootKey::kept(data)?)
        else {
            bail!(
                "there is no Ferrogate in {}: start one with `ferrogate up`, or name another --data-dir",
                data.path().display()
            );
        };
        Ok(Self { endpoint, key, http: HttpClient::builder(TokioExecutor::new()).build_http() })
    }

    /// One call of a JSON 1.1 service.
    pub(crate) async fn call(&self, service: &str, target: &str, input: &Value) -> Result<Value> {
        let body = serde_json::to_vec(input)?;
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, HeaderValue::from_str(&self.endpoint.listen.to_string())?);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_str(target)?);
        let request = Request { method: "POST", path_raw: "/", query_raw: "", headers: &headers };
        let credentials = Credentials {
            access_key_id: self.key.access_key_id.clone(),
            secret_access_key: self.key.secret_access_key.clone(),
            session_token: None,
        };
        let signed = ferrogate_sigv4::sign(
            &request,
            SignBody::Bytes(&body),
            &credentials,
            &self.endpoint.region,
            service,
            Timestamp::now(),
        )?;
        let mut request =
            http::Request::builder().method(Method::POST).uri(format!("{}/", self.endpoint.url()));
        let all = request.headers_mut().context("a request has headers")?;
        all.extend(headers);
        all.extend(signed);
        let response =
            self.http.request(request.body(Full::new(Bytes::from(body)))?).await.with_context(|| {
                format!("{} does not answer: does it run? (`ferrogate status`)", self.endpoint.url())
            })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer could not be read: {error}"))?
            .to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if !status.is_success() {
            let code = answer["__type"].as_str().unwrap_or(status.as_str()).to_owned();
            bail!("{code}: {}", answer["message"].as_str().unwrap_or_default());
        }
        Ok(answer)
    }

    pub(crate) async fn ecs(&self, operation: &str, input: Value) -> Result<Value> {
        self.call("ecs", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), &input).await
    }

    pub(crate) async fn logs(&self, operation: &str, input: Value) -> Result<Value> {
        self.call("logs", &format!("Logs_20140328.{operation}"), &input).await
    }
}

/// What the admin socket is asked: one line of JSON, answered by one.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Ask {
    Status,
    /// Stop every task, remove everything of theirs, and leave.
    Down,
    /// Why a task is as it is.
    Explain {
        task_arn: String,
    },
    /// The folder of a task's kept output.
    Task {
        id: String,
    },
}

pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

pub(crate) fn ask(data: &DataDir, ask: &Ask) -> Result<Value> {
    let path = data.join(ADMIN_SOCKET);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("no Ferrogate runs with the data folder {}", data.path().display()))?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("it did not answer")?;
    serde_json::from_str(&answer).context("its answer cannot be read")
}
