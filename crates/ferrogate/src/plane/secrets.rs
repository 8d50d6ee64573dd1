//! The values of a container's secrets and its registry's password, got as the task's execution role.
//!
//! What is said when one cannot be had is ECS's text from `unable to retrieve …` on; the node puts
//! `ResourceInitializationError: …` in front of it. No text here ever holds a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, Invoke, secretsmanager, ssm};
use ferrogate_model::Arn;
use ferrogate_nodeapi::{ControlPlaneError, RegistryCredentials};

/// Calls beyond the first, when one fails; the text names them.
const RETRIES: usize = 1;
/// GetParameters takes no more at once.
const PARAMETERS_PER_CALL_MAX: usize = 10;
const ASM: &str = "secret from asm";
const SSM: &str = "secrets from ssm";

/// Where a value is kept, by a secret's `valueFrom`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Secret {
        id: SecretId,
        /// Of the JSON object that the secret is; `None`: all of it.
        json_key: Option<String>,
    },
    Parameter {
        region: String,
        name: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SecretId {
    region: String,
    /// ARN or name
    id: String,
    stage: Option<String>,
    version_id: Option<String>,
}

/// `arn:aws:secretsmanager:…:secret:name-AbCdEf[:json-key:stage:version-id]`, the ARN of a parameter, or the name of
/// one in the task's region.
fn place(value_from: &str, task_region: &str) -> Result<Place, ApiError> {
    let parameter =
        |region: &str| Place::Parameter { region: region.to_owned(), name: value_from.to_owned() };
    let Ok(arn) = value_from.parse::<Arn>() else { return Ok(parameter(task_region)) };
    if arn.service != "secretsmanager" {
        return Ok(parameter(&arn.region));
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (name, [json_key, stage, version_id]) = match *arn.resource.split(':').collect::<Vec<_>>() {
        ["secret", name] => (name, [None, None, None]),
        ["secret", name, key, stage, version_id] => (name, [some(key), some(stage), some(version_id)]),
        _ => {
            return Err(ApiError::new(
                "InvalidParameterException",
                "unexpected ARN format with parameters when trying to retrieve ASM secret",
            ));
        }
    };
    let resource = format!("secret:{name}");
    let region = arn.region.clone();
    let id = Arn { resource, ..arn }.to_string();
    Ok(Place::Secret { id: SecretId { region, id, stage, version_id }, json_key })
}

/// Reads on behalf of one task.
pub(super) struct Reader {
    pub(super) invoke: Arc<dyn Invoke>,
    /// The execution role.
    pub(super) caller: Caller,
    pub(super) region: String,
}

/// Calls until one succeeds, and no more than the text says.
pub(super) async fn retried<T, F>(mut call: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let mut answer = call().await;
    for _ in 0..RETRIES {
        if answer.is_err() {
            answer = call().await;
        }
    }
    answer
}

/// In the text that a stopped task shows.
pub(super) fn failed(what: &str, code: &str, why: &str) -> ControlPlaneError {
    let message =
        format!("unable to retrieve {what}: service call has been retried {RETRIES} time(s): {why}");
    ControlPlaneError::Refused { code: code.to_owned(), message }
}

fn no_parameters(names: &str) -> ControlPlaneError {
    failed(SSM, "InvalidParameters", &format!("invalid ssm parameters: {names}"))
}

fn from_asm(error: &ApiError) -> ControlPlaneError {
    failed(ASM, &error.code, &error.message)
}

/// `Code: words`, or the code alone where AWS says no more.
fn told(error: &ApiError) -> String {
    if error.message.is_empty() { error.code.clone() } else { error.to_string() }
}

impl Reader {
    /// By variable name; `secrets`: (variable, `valueFrom`).
    pub(super) async fn values(
        &self,
        secrets: Vec<(String, String)>,
    ) -> Result<BTreeMap<String, String>, ControlPlaneError> {
        let mut wanted = Vec::with_capacity(secrets.len());
        for (variable, value_from) in secrets {
            let place = place(&value_from, &self.region).map_err(|error| from_asm(&error))?;
            wanted.push((variable, place));
        }
        let (mut texts, mut parameters) = (BTreeMap::new(), BTreeMap::<&str, Vec<&str>>::new());
        for (_, place) in &wanted {
            match place {
                Place::Secret { id, .. } if !texts.contains_key(id) => {
                    let text = self.secret(id).await.map_err(|error| from_asm(&error))?;
                    texts.insert(id.clone(), text);
                }
                Place::Secret { .. } => {}
                Place::Parameter { region, name } => {
                    let names = parameters.entry(region).or_default();
                    if !names.contains(&name.as_str()) {
                        names.push(name);
                    }
                }
            }
        }
        let mut found = BTreeMap::new();
        for (region, names) in parameters {
            for names in names.chunks(PARAMETERS_PER_CALL_MAX) {
                self.parameters(region, names, &mut found).await?;
            }
        }
        let mut values = BTreeMap::new();
        for (variable, place) in &wanted {
            let value = match place {
                Place::Secret { id, json_key } => {
                    let text = texts.get(id).map(String::as_str).unwrap_or_default();
                    member(text, json_key.as_deref()).map_err(|why| failed(ASM, "InvalidRequest", &why))?
                }
                Place::Parameter { region, name } => {
                    found.get(&(region.clone(), name.clone())).cloned().ok_or_else(|| no_parameters(name))?
                }
            };
            values.insert(variable.clone(), in_environment(variable, value)?);
        }
        Ok(values)
    }

    /// The text of a secret.
    async fn secret(&self, id: &SecretId) -> Result<String, ApiError> {
        let client = secretsmanager::Client::new(Arc::clone(&self.invoke), self.caller.clone(), &id.region);
        let request = secretsmanager::GetSecretValueRequest {
            secret_id: Some(id.id.clone()),
            version_id: id.version_id.clone(),
            version_stage: id.stage.clone(),
        };
        let answer = retried(|| client.get_secret_value(request.clone())).await;
        let failed = |code: &str, why: String| {
            let SecretId { id, .. } = id;
            ApiError::new(code, format!("failed to fetch secret {id} from secrets manager: {why}"))
        };
        let value = answer.map_err(|error| failed(&error.code, told(&error)))?;
        value.secret_string.ok_or_else(|| {
            failed(
                "InvalidRequest",
                "the secret is binary; only a SecretString can be given to a container".into(),
            )
        })
    }

    async fn parameters(
        &self,
        region: &str,
        names: &[&str],
        found: &mut BTreeMap<(String, String), String>,
    ) -> Result<(), ControlPlaneError> {
        let client = ssm::Client::new(Arc::clone(&self.invoke), self.caller.clone(), region);
        let request = ssm::GetParametersRequest {
            names: Some(names.iter().map(|&name| name.to_owned()).collect()),
            with_decryption: Some(true),
        };
        let answer = retried(|| client.get_parameters(request.clone())).await;
        let answer = answer.map_err(|error| failed(SSM, &error.code, &told(&error)))?;
        let invalid = answer.invalid_parameters.unwrap_or_default();
        if !invalid.is_empty() {
            return Err(no_parameters(&invalid.join(", ")));
        }
        for parameter in answer.parameters.unwrap_or_default() {
            let Some(value) = parameter.value else { continue };
            let selector = parameter.selector.unwrap_or_default();
            // A parameter comes back by its name, however it was asked for.
            for plain in [parameter.name, parameter.arn].into_iter().flatten() {
                found.insert((region.to_owned(), format!("{plain}{selector}")), value.clone());
            }
        }
        Ok(())
    }

    /// The name and password that a secret has for a registry.
    pub(super) async fn registry(&self, secret: &str) -> Result<RegistryCredentials, ControlPlaneError> {
        let region = secret.parse::<Arn>().map_or_else(|_| self.region.clone(), |arn| arn.region);
        let id = SecretId { region, id: secret.to_owned(), stage: None, version_id: None };
        let text = self.secret(&id).await.map_err(|error| from_asm(&error))?;
        credentials(&text).ok_or_else(|| {
            let why = format!(
                "failed to unmarshal secret value of {secret}: expected a JSON object with username and password"
            );
            failed(ASM, "InvalidRequest", &why)
        })
    }
}

fn credentials(text: &str) -> Option<RegistryCredentials> {
    let object: serde_json::Value = serde_json::from_str(text).ok()?;
    let member = |name: &str| object[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    Some(RegistryCredentials { username: member("username")?, password: member("password")? })
}

/// The whole text, or one member of the JSON object that it is. Strings as they are, others as JSON.
fn member(text: &str, key: Option<&str>) -> Result<String, String> {
    let Some(key) = key else { return Ok(text.to_owned()) };
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else {
        return Err("retrieved secret from Secrets Manager is not a JSON object".into());
    };
    match object.get(key) {
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(other.to_string()),
        None => Err(format!("retrieved secret from Secrets Manager did not contain json key {key}")),
    }
}

fn in_environment(variable: &str, value: String) -> Result<String, ControlPlaneError> {
    if value.contains('\0') {
        let message = format!("unable to retrieve secrets: the value of {variable} holds a null character");
        return Err(ControlPlaneError::Refused { code: "InvalidRequest".into(), message });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app/db-AbCdEf";

    fn secret(json_key: Option<&str>, stage: Option<&str>, version_id: Option<&str>) -> Place {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let id = SecretId {
            region: "eu-west-1".into(),
            id: ARN.into(),
            stage: own(stage),
            version_id: own(version_id),
        };
        Place::Secret { id, json_key: own(json_key) }
    }

    #[test]
    fn places() {
        let of = |text: &str| place(text, "us-east-1").unwrap();
        assert_eq!(of(ARN), secret(None, None, None));
        assert_eq!(of(&format!("{ARN}:::")), secret(None, None, None));
        assert_eq!(of(&format!("{ARN}:password::")), secret(Some("password"), None, None));
        assert_eq!(
            of(&format!("{ARN}:k:AWSPREVIOUS:v1")),
            secret(Some("k"), Some("AWSPREVIOUS"), Some("v1"))
        );
        assert!(place(&format!("{ARN}:password"), "us-east-1").is_err());
        let parameter =
            |region: &str, name: &str| Place::Parameter { region: region.into(), name: name.into() };
        assert_eq!(of("/app/db"), parameter("us-east-1", "/app/db"));
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/app/db";
        assert_eq!(of(arn), parameter("eu-west-1", arn));
    }

    #[test]
    fn members_of_json() {
        let text = r#"{"user":"u","port":5432,"on":true}"#;
        assert_eq!(member(text, None).unwrap(), text);
        assert_eq!(member(text, Some("user")).unwrap(), "u");
        assert_eq!(member(text, Some("port")).unwrap(), "5432");
        let error = member(text, Some("none")).unwrap_err();
        assert_eq!(error, "retrieved secret from Secrets Manager did not contain json key none");
        // The value itself is in no text.
        assert!(!member("hunter2", Some("x")).unwrap_err().contains("hunter2"));
    }

    #[test]
    fn registry_passwords() {
        let found = credentials(r#"{"username":"u","password":"p"}"#).unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("u", "p"));
        for wrong in ["", "p", r#"{"username":"u"}"#, r#"{"username":"u","password":1}"#] {
            assert!(credentials(wrong).is_none(), "{wrong}");
        }
    }
}
