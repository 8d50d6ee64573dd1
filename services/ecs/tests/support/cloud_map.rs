//! Cloud Map as far as Service Connect needs it: namespaces, services found by API, their instances.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ferrogate_api::servicediscovery as discovery;
use ferrogate_api::{ApiError, Caller, Shape, Value};

#[derive(Default)]
pub(crate) struct CloudMap {
    held: Mutex<Held>,
    /// CreateService and RegisterInstance fail so; taken from the front.
    pub(crate) errors: Mutex<Vec<ApiError>>,
}

#[derive(Default)]
struct Held {
    /// Id → (name, made by ECS).
    namespaces: BTreeMap<String, (String, bool)>,
    services: BTreeMap<String, Service>,
    made: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) managed: bool,
    /// By task id.
    pub(crate) instances: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) attributes: BTreeMap<String, String>,
}

fn parse<T: Shape>(value: Value) -> T {
    T::from_value(value).expect("an input of the API")
}

pub(crate) fn arn(resource: &str) -> String {
    format!("arn:aws:servicediscovery:us-east-1:123456789012:{resource}")
}

fn is_managed(tags: Option<Vec<discovery::Tag>>) -> bool {
    tags.iter().flatten().any(|tag| tag.key.as_deref() == Some("AmazonECSManaged"))
}

impl CloudMap {
    pub(crate) fn namespace(&self, name: &str) -> String {
        self.held.lock().unwrap().make_namespace(name, false)
    }

    /// A customer's own.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> String {
        self.held.lock().unwrap().make_service(namespace, name, false)
    }

    /// (name, made by ECS)
    pub(crate) fn namespaces(&self) -> Vec<(String, bool)> {
        self.held.lock().unwrap().namespaces.values().cloned().collect()
    }

    /// By id.
    pub(crate) fn services(&self) -> BTreeMap<String, Service> {
        self.held.lock().unwrap().services.clone()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<(String, Service)> {
        self.services().into_iter().find(|(_, one)| one.name == name)
    }

    pub(crate) fn instances(&self, name: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        self.by_name(name).map(|(_, one)| one.instances).unwrap_or_default()
    }

    /// Somebody else deletes it.
    pub(crate) fn lose(&self, id: &str) {
        self.held.lock().unwrap().services.remove(id);
    }

    pub(crate) fn answer(&self, caller: &Caller, operation: &str, input: Value) -> Result<Value, ApiError> {
        assert!(
            matches!(caller, Caller::Service { name: "ecs.amazonaws.com", .. }),
            "{operation} by {caller:?}"
        );
        let mut held = self.held.lock().unwrap();
        match operation {
            "CreateHttpNamespace" => {
                let input: discovery::CreateHttpNamespaceRequest = parse(input);
                held.make_namespace(&input.name.unwrap(), is_managed(input.tags));
                Ok(discovery::CreateHttpNamespaceResponse { operation_id: Some("op".into()) }.to_value())
            }
            "ListNamespaces" => {
                let input: discovery::ListNamespacesRequest = parse(input);
                let name = input.filters.unwrap().remove(0).values.unwrap().remove(0);
                let found = held.namespaces.iter().filter(|(_, (one, _))| *one == name);
                let summary = |(id, (name, _)): (&String, &(String, bool))| discovery::NamespaceSummary {
                    id: Some(id.clone()),
                    arn: Some(arn(&format!("namespace/{id}"))),
                    name: Some(name.clone()),
                    ..Default::default()
                };
                let namespaces = Some(found.map(summary).collect());
                Ok(discovery::ListNamespacesResponse { namespaces, next_token: None }.to_value())
            }
            "GetNamespace" => {
                let input: discovery::GetNamespaceRequest = parse(input);
                let id = input.id.unwrap();
                let Some((name, _)) = held.namespaces.get(&id) else {
                    return Err(ApiError::new(
                        "NamespaceNotFound",
                        format!("Failed to find namespace {id}."),
                    ));
                };
                let namespace = discovery::Namespace {
                    arn: Some(arn(&format!("namespace/{id}"))),
                    name: Some(name.clone()),
                    id: Some(id),
                    ..Default::default()
                };
                Ok(discovery::GetNamespaceResponse { namespace: Some(namespace) }.to_value())
            }
            "CreateService" => {
                self.fail()?;
                let input: discovery::CreateServiceRequest = parse(input);
                assert_eq!(
                    (input.r#type.as_deref(), &input.health_check_custom_config),
                    (Some("HTTP"), &None)
                );
                let (namespace, name) = (input.namespace_id.unwrap(), input.name.unwrap());
                let twin =
                    held.services.iter().find(|(_, one)| one.namespace == namespace && one.name == name);
                if let Some((id, _)) = twin {
                    return Err(ApiError::new("ServiceAlreadyExists", "a service with the same name")
                        .with_member("ServiceId", Value::String(id.clone())));
                }
                let id = held.make_service(&namespace, &name, is_managed(input.tags));
                let service = discovery::Service { id: Some(id), ..Default::default() };
                Ok(discovery::CreateServiceResponse { service: Some(service) }.to_value())
            }
            "DeleteService" => {
                let input: discovery::DeleteServiceRequest = parse(input);
                let id = input.id.unwrap();
                let found = held.find(&id)?;
                assert!(found.managed, "a customer's own service is deleted");
                if !found.instances.is_empty() {
                    return Err(ApiError::new("ResourceInUse", "it has instances"));
                }
                held.services.remove(&id);
                Ok(discovery::DeleteServiceResponse {}.to_value())
            }
            "ListServices" => {
                let summary = |(id, one): (&String, &Service)| discovery::ServiceSummary {
                    id: Some(id.clone()),
                    name: Some(one.name.clone()),
                    ..Default::default()
                };
                let services = Some(held.services.iter().map(summary).collect());
                Ok(discovery::ListServicesResponse { services, next_token: None }.to_value())
            }
            "ListTagsForResource" => {
                let input: discovery::ListTagsForResourceRequest = parse(input);
                let id = input.resource_arn.unwrap().rsplit('/').next().unwrap().to_owned();
                let managed = held.find(&id)?.managed;
                let tag = discovery::Tag { key: Some("AmazonECSManaged".into()), value: Some("true".into()) };
                let tags = Some(managed.then_some(tag).into_iter().collect());
                Ok(discovery::ListTagsForResourceResponse { tags }.to_value())
            }
            "UpdateServiceAttributes" => {
                self.fail()?;
                let input: discovery::UpdateServiceAttributesRequest = parse(input);
                let service = held.find(&input.service_id.unwrap())?;
                service.attributes.extend(input.attributes.unwrap());
                Ok(discovery::UpdateServiceAttributesResponse {}.to_value())
            }
            "DeleteServiceAttributes" => {
                let input: discovery::DeleteServiceAttributesRequest = parse(input);
                let service = held.find(&input.service_id.unwrap())?;
                let given = input.attributes.unwrap();
                service.attributes.retain(|key, _| !given.contains(key));
                Ok(discovery::DeleteServiceAttributesResponse {}.to_value())
            }
            "RegisterInstance" => {
                self.fail()?;
                let input: discovery::RegisterInstanceRequest = parse(input);
                let service = held.find(&input.service_id.unwrap())?;
                service.instances.insert(input.instance_id.unwrap(), input.attributes.unwrap());
                Ok(discovery::RegisterInstanceResponse { operation_id: Some("op".into()) }.to_value())
            }
            "DeregisterInstance" => {
                let input: discovery::DeregisterInstanceRequest = parse(input);
                let service = held.find(&input.service_id.unwrap())?;
                match service.instances.remove(&input.instance_id.unwrap()) {
                    Some(_) => {
                        Ok(discovery::DeregisterInstanceResponse { operation_id: Some("op".into()) }
                            .to_value())
                    }
                    None => Err(ApiError::new("InstanceNotFound", "it is not there")),
                }
            }
            other => panic!("Service Connect does not call {other}"),
        }
    }

    fn fail(&self) -> Result<(), ApiError> {
        let mut errors = self.errors.lock().unwrap();
        if errors.is_empty() { Ok(()) } else { Err(errors.remove(0)) }
    }
}

impl Held {
    fn make_namespace(&mut self, name: &str, managed: bool) -> String {
        self.made += 1;
        let id = format!("ns-{}", self.made);
        self.namespaces.insert(id.clone(), (name.to_owned(), managed));
        id
    }

    fn make_service(&mut self, namespace: &str, name: &str, managed: bool) -> String {
        self.made += 1;
        let id = format!("srv-{}", self.made);
        let service = Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            managed,
            instances: BTreeMap::new(),
            attributes: BTreeMap::new(),
        };
        self.services.insert(id.clone(), service);
        id
    }

    fn find(&mut self, id: &str) -> Result<&mut Service, ApiError> {
        let missing = || ApiError::new("ServiceNotFound", format!("Failed to find service {id}."));
        self.services.get_mut(id).ok_or_else(missing)
    }
}
