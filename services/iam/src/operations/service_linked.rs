//! Service-linked roles. What a service may do under its role is built into the front; the record here is what
//! tools look at and wait for. Nothing uses the record, so nothing stands against its deletion.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_model::unique_id;
use ferrogate_store::Txn;

use super::roles::SESSION_SECONDS_DEFAULT;
use super::{given, no_such};
use crate::IamService;
use crate::state::{Held, Holder, RoleRecord, SERVICE_ROLE_PATH};

/// The services that have one here, and its name.
const SERVICES: &[(&str, &str)] = &[
    ("ecs.amazonaws.com", "AWSServiceRoleForECS"),
    ("elasticloadbalancing.amazonaws.com", "AWSServiceRoleForElasticLoadBalancing"),
];
/// What the proofs in deletion task ids are sealed for.
const DELETION_PLACE: &str = "service-linked-role-deletion";

impl IamService {
    pub(crate) async fn create_service_linked_role(
        &self,
        cx: &Context,
        input: CreateServiceLinkedRoleRequest,
    ) -> Result<CreateServiceLinkedRoleResponse, ApiError> {
        let service = given(input.aws_service_name);
        let Some((_, name)) = SERVICES.iter().find(|(known, _)| *known == service) else {
            let known: Vec<&str> = SERVICES.iter().map(|(service, _)| *service).collect();
            return Err(invalid(format!(
                "{service} has no service-linked role in this version of Ferrogate; those that have: {}.",
                known.join(", ")
            )));
        };
        if input.custom_suffix.is_some() {
            return Err(invalid(format!("Custom suffix is not allowed for {service}")));
        }
        let record = RoleRecord {
            held: Held {
                name: (*name).to_owned(),
                path: format!("{SERVICE_ROLE_PATH}{service}/"),
                id: unique_id("AROA"),
                created: cx.now,
                tags: Default::default(),
                inline: Default::default(),
                attached: Default::default(),
                boundary: None,
            },
            trust: format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"{service}"}},"Action":"sts:AssumeRole"}}]}}"#
            ),
            description: input.description,
            max_session_seconds: SESSION_SECONDS_DEFAULT,
        };
        let taken = || {
            invalid(format!(
                "Service role name {name} has been taken in this account, please try a different suffix."
            ))
        };
        self.make_role(&record, taken).await?;
        Ok(CreateServiceLinkedRoleResponse { role: Some(self.role_of(&record)) })
    }

    /// The deletion is done when the answer leaves. Its task id proves itself: it carries the role's id, sealed.
    pub(crate) async fn delete_service_linked_role(
        &self,
        _: &Context,
        input: DeleteServiceLinkedRoleRequest,
    ) -> Result<DeleteServiceLinkedRoleResponse, ApiError> {
        let name = given(input.role_name);
        let held = self
            .transact(|| {
                let found = self.found::<RoleRecord>(&name)?;
                if !found.record.is_protected() {
                    return Err(invalid(format!("Role {name} is not a service-linked role.")));
                }
                let txn = Txn::new().when_revision(&*found.key, found.mod_revision).delete(&*found.key);
                Ok((txn, found.record.held))
            })
            .await?;
        let proof = self.sealer.seal(held.id.as_bytes(), &place(&held.path, &held.name));
        let id = format!("task{}{}/{proof}", held.path, held.name);
        Ok(DeleteServiceLinkedRoleResponse { deletion_task_id: Some(id) })
    }

    pub(crate) async fn get_service_linked_role_deletion_status(
        &self,
        _: &Context,
        input: GetServiceLinkedRoleDeletionStatusRequest,
    ) -> Result<GetServiceLinkedRoleDeletionStatusResponse, ApiError> {
        let id = given(input.deletion_task_id);
        let proven = || {
            let (service, rest) =
                id.strip_prefix("task")?.strip_prefix(SERVICE_ROLE_PATH)?.split_once('/')?;
            let (name, proof) = rest.split_once('/')?;
            self.sealer.unseal(proof, &place(&format!("{SERVICE_ROLE_PATH}{service}/"), name)).ok()
        };
        proven().ok_or_else(|| no_such(format!("Deletion task with id {id} does not exist.")))?;
        Ok(GetServiceLinkedRoleDeletionStatusResponse { status: Some("SUCCEEDED".into()), reason: None })
    }
}

fn place(path: &str, name: &str) -> String {
    format!("{DELETION_PLACE}{path}{name}")
}

fn invalid(message: String) -> ApiError {
    ApiError::new("InvalidInput", message)
}
