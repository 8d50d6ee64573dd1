//! boto3, kept running: a call by the real client costs milliseconds.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::places;
use crate::world::World;

/// An access key, or a session's.
#[derive(Clone, Debug)]
pub struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl Keys {
    /// Of CreateAccessKey's `AccessKey` or AssumeRole's `Credentials`.
    pub fn of(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        Self {
            access_key_id: text("AccessKeyId").expect("an AccessKeyId"),
            secret_access_key: text("SecretAccessKey").expect("a SecretAccessKey"),
            session_token: text("SessionToken"),
        }
    }
}

/// An error as boto3 raised it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsError {
    /// AWS's code; or the name of the client's exception where no answer came.
    pub code: String,
    pub message: String,
    /// The HTTP status; 0 where no answer came.
    pub status: u64,
}

/// One boto3 session under one set of credentials.
#[derive(Debug)]
pub struct Boto {
    child: Child,
    pipes: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Boto {
    pub(crate) fn start(world: &World, url: &str, region: &str, keys: &Keys) -> Self {
        let mut command = world.command(places::venv("python"));
        command
            .arg(places::script("driver.py"))
            .env("AWS_ENDPOINT_URL", url)
            .env("AWS_DEFAULT_REGION", region)
            .env("AWS_ACCESS_KEY_ID", &keys.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret_access_key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(token) = &keys.session_token {
            command.env("AWS_SESSION_TOKEN", token);
        }
        let mut child = command.spawn().expect("python of .cache/venv");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, pipes: RefCell::new((stdin, stdout)) }
    }

    /// `service`: boto3's name of the client. `operation`: its method, or `wait:<waiter>`, or `pages:<method>` for all
    /// pages in one.
    pub fn call(&self, service: &str, operation: &str, arguments: Value) -> Result<Value, AwsError> {
        let (stdin, stdout) = &mut *self.pipes.borrow_mut();
        let ask = json!({ "service": service, "operation": operation, "arguments": arguments });
        writeln!(stdin, "{ask}").and_then(|()| stdin.flush()).expect("the driver reads");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the driver answers");
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("the driver said {line:?}"));
        match answer["error"].take() {
            Value::Null => Ok(answer["ok"].take()),
            error => Err(AwsError {
                code: error["code"].as_str().unwrap_or_default().to_owned(),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
                status: error["status"].as_u64().unwrap_or_default(),
            }),
        }
    }

    /// Of a call that must succeed.
    #[track_caller]
    pub fn ok(&self, service: &str, operation: &str, arguments: Value) -> Value {
        let asked = arguments.to_string();
        match self.call(service, operation, arguments) {
            Ok(answer) => answer,
            Err(error) => panic!("{service}.{operation}({asked}) answered {error:?}"),
        }
    }

    /// Of a call that must be refused.
    #[track_caller]
    pub fn refused(&self, service: &str, operation: &str, arguments: Value) -> AwsError {
        let asked = arguments.to_string();
        match self.call(service, operation, arguments) {
            Ok(answer) => panic!("{service}.{operation}({asked}) should be refused and answered {answer}"),
            Err(error) => error,
        }
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
