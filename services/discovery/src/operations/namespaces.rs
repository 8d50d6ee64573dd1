//! Namespaces.

use ferrogate_api::servicediscovery::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::paginate;
use ferrogate_store::{Json, Txn, get_json, range_json};

use super::{ATTEMPTS_MAX, filtered, filters, page_size, tags};
use crate::state::{
    NamespaceKind, NamespaceRecord, OperationRecord, Phase, Scope, UpdateRecord, Work, new_id,
};
use crate::{DiscoveryService, errors};

/// "Namespaces per Region" of the quotas.
const NAMESPACES_MAX: usize = 50;
/// Of the zone's SOA, where the request names none.
const SOA_TTL_SECONDS: i64 = 15;

struct Given {
    kind: NamespaceKind,
    name: Option<String>,
    creator_request_id: Option<String>,
    description: Option<String>,
    vpc_id: Option<String>,
    soa_ttl_seconds: Option<i64>,
    tags: Option<Vec<Tag>>,
}

/// The TTL of the SOA in the properties of any kind.
macro_rules! soa {
    ($properties:expr) => {
        $properties.and_then(|properties| properties.dns_properties?.soa?.ttl)
    };
}

/// What a request says that only some kinds know: the closures' inputs are known by their first argument.
fn of<I, T>(input: &I, read: impl FnOnce(&I) -> T) -> T {
    read(input)
}

/// How a kind of namespace is made and changed: shapes of their own with the same members, but for these.
macro_rules! kind {
    (
        $kind:ident: $create:ident($creation:ident) -> $created:ident { vpc_id: $vpc_id:expr, soa: $soa:expr }
        $change:ident($changes:ident) -> $changed:ident { soa: $new_soa:expr }
    ) => {
        pub(crate) async fn $create(
            service: &DiscoveryService,
            cx: &Context,
            input: $creation,
        ) -> Result<$created, ApiError> {
            let given = Given {
                kind: NamespaceKind::$kind,
                vpc_id: of(&input, $vpc_id),
                soa_ttl_seconds: of(&input, $soa),
                name: input.name,
                creator_request_id: input.creator_request_id,
                description: input.description,
                tags: input.tags,
            };
            Ok($created { operation_id: Some(create(service, cx, given).await?) })
        }

        pub(crate) async fn $change(
            service: &DiscoveryService,
            cx: &Context,
            input: $changes,
        ) -> Result<$changed, ApiError> {
            let change = input.namespace.unwrap_or_default();
            let wanted = UpdateRecord {
                request_id: input.updater_request_id,
                soa_ttl_seconds: of(&change, $new_soa),
                description: change.description,
            };
            let id = update(service, cx, input.id, NamespaceKind::$kind, wanted).await?;
            Ok($changed { operation_id: Some(id) })
        }
    };
}

kind! {
    Http: create_http(CreateHttpNamespaceRequest) -> CreateHttpNamespaceResponse { vpc_id: |_| None, soa: |_| None }
    update_http(UpdateHttpNamespaceRequest) -> UpdateHttpNamespaceResponse { soa: |_| None }
}
kind! {
    Private: create_private(CreatePrivateDnsNamespaceRequest) -> CreatePrivateDnsNamespaceResponse {
        vpc_id: |input| input.vpc.clone(), soa: |input| soa!(input.properties.clone())
    }
    update_private(UpdatePrivateDnsNamespaceRequest) -> UpdatePrivateDnsNamespaceResponse {
        soa: |change| soa!(change.properties.clone())
    }
}
kind! {
    Public: create_public(CreatePublicDnsNamespaceRequest) -> CreatePublicDnsNamespaceResponse {
        vpc_id: |_| None, soa: |input| soa!(input.properties.clone())
    }
    update_public(UpdatePublicDnsNamespaceRequest) -> UpdatePublicDnsNamespaceResponse {
        soa: |change| soa!(change.properties.clone())
    }
}

fn ttl(given: Option<i64>) -> Result<u32, ApiError> {
    let seconds = given.unwrap_or(SOA_TTL_SECONDS);
    u32::try_from(seconds).ok().filter(|ttl| *ttl <= i32::MAX as u32).ok_or_else(|| {
        errors::invalid_input(format!("The TTL {seconds} of the SOA record is not from 0 to {}.", i32::MAX))
    })
}

async fn create(service: &DiscoveryService, cx: &Context, given: Given) -> Result<String, ApiError> {
    let scope = Scope::of(cx);
    let name = given.name.unwrap_or_default();
    if let Some(twin) = by_name(service, &scope, &name) {
        return Err(taken(&twin, given.creator_request_id.as_deref()));
    }
    if service.store.range(&scope.namespaces()).len() >= NAMESPACES_MAX {
        return Err(errors::limit(format!(
            "This account has {NAMESPACES_MAX} namespaces in the Region already."
        )));
    }
    let tags = tags::of_request(given.tags, Default::default(), &name)?;
    let soa_ttl_seconds = ttl(given.soa_ttl_seconds)?;
    let id = new_id("ns");
    let dns = given.kind != NamespaceKind::Http;
    let work = dns.then_some((id.as_str(), Work::CreateZone));
    let (operation_id, txn) =
        service.begin(cx, Txn::new(), ("CREATE_NAMESPACE", &[("NAMESPACE", id.as_str())]), work);
    let record = NamespaceRecord {
        id: id.clone(),
        name: name.clone(),
        kind: given.kind,
        phase: if dns { Phase::Creating } else { Phase::Active },
        description: given.description.filter(|text| !text.is_empty()),
        vpc_id: given.vpc_id,
        hosted_zone_id: None,
        soa_ttl_seconds,
        creator_request_id: given.creator_request_id.clone().unwrap_or_else(|| cx.request_id.clone()),
        operation_id: operation_id.clone(),
        created_at: cx.now,
        tags,
    };
    let txn = txn
        .when_absent(scope.namespace_name(&name))
        .put_json(scope.namespace_name(&name), &id)
        .put_json(scope.namespace(&id), &record);
    if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
        return Ok(operation_id);
    }
    let twin = by_name(service, &scope, &name).ok_or_else(errors::contended)?;
    Err(taken(&twin, given.creator_request_id.as_deref()))
}

/// The same call again while it is under way is a duplicate; afterwards the namespace is there.
fn taken(twin: &NamespaceRecord, creator_request_id: Option<&str>) -> ApiError {
    if twin.phase == Phase::Creating && creator_request_id == Some(&twin.creator_request_id) {
        return errors::duplicate(&twin.operation_id);
    }
    errors::namespace_exists(&twin.id, &twin.creator_request_id)
}

pub(crate) fn by_name(service: &DiscoveryService, scope: &Scope, name: &str) -> Option<NamespaceRecord> {
    let id = get_json::<String>(service.store(), &scope.namespace_name(name))?.record;
    get_json(service.store(), &scope.namespace(&id)).map(|found| found.record)
}

pub(crate) async fn delete(
    service: &DiscoveryService,
    cx: &Context,
    input: DeleteNamespaceRequest,
) -> Result<DeleteNamespaceResponse, ApiError> {
    let scope = Scope::of(cx);
    let id = input.id.unwrap_or_default();
    for _ in 0..ATTEMPTS_MAX {
        let found = service.namespace(&scope, &id)?;
        let mut record = found.record;
        if record.phase == Phase::Deleting {
            return Err(errors::duplicate(&record.operation_id));
        }
        if !service.store.range(&scope.service_names(&record.id)).is_empty() {
            return Err(errors::in_use(format!(
                "Namespace {} cannot be deleted because it has services; delete them first.",
                record.id
            )));
        }
        let txn = Txn::new().when_revision(&*found.key, found.mod_revision);
        let work = record.dns().then_some((record.id.as_str(), Work::DeleteZone));
        let targets = [("NAMESPACE", record.id.as_str())];
        let (operation_id, mut txn) = service.begin(cx, txn, ("DELETE_NAMESPACE", &targets), work);
        if record.dns() {
            record.phase = Phase::Deleting;
            record.operation_id.clone_from(&operation_id);
            txn = txn.put_json(&*found.key, &record);
        } else {
            txn = txn.delete(&*found.key).delete(scope.namespace_name(&record.name));
        }
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(DeleteNamespaceResponse { operation_id: Some(operation_id) });
        }
    }
    Err(errors::contended())
}

fn word(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Http => "HTTP",
        NamespaceKind::Private => "DNS_PRIVATE",
        NamespaceKind::Public => "DNS_PUBLIC",
    }
}

fn properties(record: &NamespaceRecord) -> NamespaceProperties {
    let dns = DnsProperties {
        hosted_zone_id: record.hosted_zone_id.clone(),
        soa: Some(SOA { ttl: Some(i64::from(record.soa_ttl_seconds)) }),
    };
    NamespaceProperties {
        dns_properties: record.dns().then_some(dns),
        http_properties: Some(HttpProperties { http_name: Some(record.name.clone()) }),
    }
}

pub(crate) async fn get(
    service: &DiscoveryService,
    cx: &Context,
    input: GetNamespaceRequest,
) -> Result<GetNamespaceResponse, ApiError> {
    let scope = Scope::of(cx);
    let record = service.namespace(&scope, &input.id.unwrap_or_default())?.record;
    let namespace = Namespace {
        arn: Some(scope.namespace_arn(&record.id)),
        resource_owner: Some(cx.account.clone()),
        r#type: Some(word(record.kind).into()),
        service_count: Some(service.count(&scope.service_names(&record.id))),
        properties: Some(properties(&record)),
        create_date: Some(record.created_at),
        id: Some(record.id),
        name: Some(record.name),
        description: record.description,
        creator_request_id: Some(record.creator_request_id),
    };
    Ok(GetNamespaceResponse { namespace: Some(namespace) })
}

pub(crate) async fn list(
    service: &DiscoveryService,
    cx: &Context,
    input: ListNamespacesRequest,
) -> Result<ListNamespacesResponse, ApiError> {
    let scope = Scope::of(cx);
    let found = range_json::<NamespaceRecord>(service.store(), &scope.namespaces()).into_iter();
    let found = found.map(|found| found.record).filter(|record| record.phase != Phase::Creating).collect();
    let found = filtered(found, filters!(input), |record: &NamespaceRecord, name| {
        Some(match name {
            "TYPE" => word(record.kind).to_owned(),
            "NAME" | "HTTP_NAME" => record.name.clone(),
            "RESOURCE_OWNER" => "SELF".to_owned(),
            _ => return None,
        })
    })?;
    let page =
        paginate(found, |record| &record.id, input.next_token.as_deref(), page_size(input.max_results))
            .map_err(|_| errors::bad_token())?;
    let summary = |record: NamespaceRecord| NamespaceSummary {
        arn: Some(scope.namespace_arn(&record.id)),
        resource_owner: Some(cx.account.clone()),
        r#type: Some(word(record.kind).into()),
        service_count: Some(service.count(&scope.service_names(&record.id))),
        properties: Some(properties(&record)),
        create_date: Some(record.created_at),
        id: Some(record.id),
        name: Some(record.name),
        description: record.description,
    };
    let namespaces = page.items.into_iter().map(summary).collect();
    Ok(ListNamespacesResponse { namespaces: Some(namespaces), next_token: page.next_token })
}

async fn update(
    service: &DiscoveryService,
    cx: &Context,
    id: Option<String>,
    kind: NamespaceKind,
    wanted: UpdateRecord,
) -> Result<String, ApiError> {
    let (scope, id) = (Scope::of(cx), id.unwrap_or_default());
    for _ in 0..ATTEMPTS_MAX {
        let Json { key, mut record, mod_revision, .. } = service.namespace(&scope, &id)?;
        if record.kind != kind {
            let is = word(record.kind);
            return Err(errors::invalid_input(format!(
                "The namespace {} is of type {is}: it has another operation.",
                record.id
            )));
        }
        if let Some(operation_id) = made_before(service, &scope, &record.id, &wanted)? {
            return Ok(operation_id);
        }
        if record.phase == Phase::Deleting {
            return Err(errors::in_use(format!("The namespace {} is being deleted.", record.id)));
        }
        if let Some(description) = &wanted.description {
            record.description = Some(description.clone()).filter(|text| !text.is_empty());
        }
        if wanted.soa_ttl_seconds.is_some() {
            record.soa_ttl_seconds = ttl(wanted.soa_ttl_seconds)?;
        }
        let work = wanted.soa_ttl_seconds.map(|_| (record.id.as_str(), Work::SoaTtl));
        let txn = Txn::new().when_revision(&*key, mod_revision).put_json(&*key, &record);
        let targets = [("NAMESPACE", record.id.as_str())];
        let named = wanted.request_id.is_some().then(|| wanted.clone());
        let (operation_id, txn) = service.begin_update(cx, txn, ("UPDATE_NAMESPACE", &targets), work, named);
        if service.store.txn(txn).await.map_err(errors::store)?.succeeded {
            return Ok(operation_id);
        }
    }
    Err(errors::contended())
}

/// The operation of the same update, named so before: one that failed may be tried again by the same name.
fn made_before(
    service: &DiscoveryService,
    scope: &Scope,
    id: &str,
    wanted: &UpdateRecord,
) -> Result<Option<String>, ApiError> {
    let Some(request_id) = &wanted.request_id else { return Ok(None) };
    let found = range_json::<OperationRecord>(service.store(), &scope.operations());
    let named = |operation: &OperationRecord| {
        let update = operation.update.as_ref();
        operation.status != "FAIL"
            && operation.targets.get("NAMESPACE").is_some_and(|of| of == id)
            && update.is_some_and(|update| update.request_id.as_ref() == Some(request_id))
    };
    let Some(operation) = found.into_iter().map(|found| found.record).find(named) else { return Ok(None) };
    if operation.update.as_ref() != Some(wanted) {
        return Err(errors::invalid_input(format!(
            "The UpdaterRequestId {request_id} was given to another update of the namespace {id}; choose another."
        )));
    }
    match operation.status.as_str() {
        "PENDING" => Err(errors::duplicate(&operation.id)),
        _ => Ok(Some(operation.id)),
    }
}
