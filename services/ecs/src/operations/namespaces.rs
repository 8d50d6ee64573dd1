//! The Cloud Map namespaces of Service Connect, by Cloud Map's API and in ECS's own name.

use ferrogate_api::{ApiError, servicediscovery as discovery};
use ferrogate_model::Arn;

use crate::call::Call;
use crate::controllers::clients;
use crate::errors::invalid;
use crate::state::Scope;

/// What ECS makes in Cloud Map carries it (AmazonECSServiceRolePolicy).
const MANAGED_TAG: &str = "AmazonECSManaged";
/// ECS API reference, ClusterServiceConnectDefaultsRequest.
const NAME_CHARACTERS_MAX: usize = 1024;
const NAME_WITHOUT: [char; 4] = ['<', '>', '"', '/'];

pub(crate) struct Namespace {
    pub id: String,
    pub arn: String,
    /// What default client aliases end with.
    pub name: String,
}

pub(crate) fn managed() -> Vec<discovery::Tag> {
    vec![discovery::Tag { key: Some(MANAGED_TAG.into()), value: Some("true".into()) }]
}

fn not_found(identifier: &str) -> ApiError {
    ApiError::new("NamespaceNotFoundException", format!("Failed to retrieve namespace for {identifier}"))
}

/// Cloud Map's word on what a caller named.
pub(crate) fn of_cloud_map(error: ApiError) -> ApiError {
    if error.status.is_some_and(|status| status >= 500) {
        return error;
    }
    invalid(format!("AWS Cloud Map refused: {} (ErrorCode: {})", error.message, error.code))
}

/// Whether ECS has made this Cloud Map service.
pub(crate) async fn is_managed(
    client: &discovery::Client,
    scope: &Scope,
    service_id: &str,
) -> Result<bool, ApiError> {
    let arn = scope.cloud_map_arn(format!("service/{service_id}"));
    let request = discovery::ListTagsForResourceRequest { resource_arn: Some(arn) };
    let tags = client.list_tags_for_resource(request).await?.tags;
    Ok(tags.iter().flatten().any(|tag| tag.key.as_deref() == Some(MANAGED_TAG)))
}

/// Whether what was refused was refused because somebody has deleted this Cloud Map service. Of what is not there it cannot be
/// seen that ECS has made it: then a call that is allowed for that only is denied.
pub(crate) async fn is_gone(client: &discovery::Client, service_id: &str, error: &ApiError) -> bool {
    let is_not_found = |error: &ApiError| error.code.starts_with("ServiceNotFound");
    if !error.code.starts_with("AccessDenied") {
        return is_not_found(error);
    }
    let request = discovery::GetServiceRequest { id: Some(service_id.to_owned()) };
    client.get_service(request).await.is_err_and(|error| is_not_found(&error))
}

/// By name or ARN; it has to be there.
pub(crate) async fn existing(call: &Call<'_>, identifier: &str) -> Result<Namespace, ApiError> {
    find(call, identifier).await?.ok_or_else(|| not_found(identifier))
}

/// For a cluster: a name that nobody has is made an HTTP namespace.
pub(crate) async fn existing_or_made(call: &Call<'_>, identifier: &str) -> Result<Namespace, ApiError> {
    if identifier.starts_with("arn:") {
        return existing(call, identifier).await;
    }
    check_name(identifier)?;
    if let Some(found) = find(call, identifier).await? {
        return Ok(found);
    }
    let request = discovery::CreateHttpNamespaceRequest {
        name: Some(identifier.to_owned()),
        tags: Some(managed()),
        ..Default::default()
    };
    let client = clients::discovery(&call.service.invoke, &call.scope);
    match client.create_http_namespace(request).await {
        Ok(_) => {}
        // Somebody else was quicker.
        Err(error) if error.code.starts_with("NamespaceAlreadyExists") => {}
        Err(error) => return Err(of_cloud_map(error)),
    }
    existing(call, identifier).await
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let is_good = |c: char| c.is_ascii_graphic() && !NAME_WITHOUT.contains(&c);
    if (1..=NAME_CHARACTERS_MAX).contains(&name.len()) && name.chars().all(is_good) {
        return Ok(());
    }
    Err(invalid(format!(
        "Invalid namespace name '{name}'. It can have up to {NAME_CHARACTERS_MAX} printable ASCII characters without spaces, \
         greater than (>), less than (<), double quotation marks (\"), and slashes (/)."
    )))
}

async fn find(call: &Call<'_>, identifier: &str) -> Result<Option<Namespace>, ApiError> {
    if identifier.starts_with("arn:") {
        let Some(id) = id_of(call, identifier) else { return Ok(None) };
        return by_id(call, id).await;
    }
    let filter = discovery::NamespaceFilter {
        name: Some("NAME".into()),
        values: Some(vec![identifier.to_owned()]),
        condition: Some("EQ".into()),
    };
    let request = discovery::ListNamespacesRequest { filters: Some(vec![filter]), ..Default::default() };
    let client = clients::discovery(&call.service.invoke, &call.scope);
    let answer = client.list_namespaces(request).await.map_err(of_cloud_map)?;
    let first = answer.namespaces.into_iter().flatten().next();
    Ok(first.and_then(|found| Some(Namespace { id: found.id?, arn: found.arn?, name: found.name? })))
}

/// Of a namespace of this account and region.
fn id_of(call: &Call<'_>, arn: &str) -> Option<String> {
    let parsed: Arn = arn.parse().ok()?;
    let here = parsed.service == "servicediscovery"
        && parsed.account == call.scope.account
        && parsed.region == call.scope.region;
    parsed.resource.strip_prefix("namespace/").filter(|_| here).map(str::to_owned)
}

async fn by_id(call: &Call<'_>, id: String) -> Result<Option<Namespace>, ApiError> {
    let client = clients::discovery(&call.service.invoke, &call.scope);
    match client.get_namespace(discovery::GetNamespaceRequest { id: Some(id) }).await {
        Ok(answer) => Ok(answer
            .namespace
            .and_then(|found| Some(Namespace { id: found.id?, arn: found.arn?, name: found.name? }))),
        Err(error) if error.code.starts_with("NamespaceNotFound") => Ok(None),
        Err(error) => Err(of_cloud_map(error)),
    }
}
