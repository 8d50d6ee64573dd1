//! Access keys. A secret is shown once, when it is made.

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context, PrincipalKind};
use ferrogate_model::{hex_id, unique_id};
use ferrogate_store::{Txn, get_json, update_json};

use super::{given, limit_exceeded, no_such, page, refused, store};
use crate::IamService;
use crate::identity::place;
use crate::state::{AccessKeyRecord, UserRecord, access_key_key};

pub(super) const KEYS_PER_USER_MAX: usize = 2;

impl IamService {
    /// The user named, else the one who calls.
    fn user_named(&self, cx: &Context, name: Option<String>) -> Result<String, ApiError> {
        match (name, &cx.principal.kind) {
            (Some(name), _) => Ok(name),
            (None, PrincipalKind::User { name }) => Ok(name.clone()),
            (None, _) => Err(ApiError::new(
                "ValidationError",
                "Must specify userName when calling with non-User credentials",
            )),
        }
    }

    pub(crate) async fn create_access_key(
        &self,
        cx: &Context,
        input: CreateAccessKeyRequest,
    ) -> Result<CreateAccessKeyResponse, ApiError> {
        let name = self.user_named(cx, input.user_name)?;
        let id = unique_id("AKIA");
        // 40 characters, as AWS's; 160 random bits.
        let secret = format!("{}{}", hex_id(), &hex_id()[..8]);
        let record = self
            .transact(|| {
                let found = self.found::<UserRecord>(&name)?;
                let mut user = found.record;
                if user.access_keys.len() >= KEYS_PER_USER_MAX {
                    return Err(limit_exceeded(format!(
                        "Cannot exceed quota for AccessKeysPerUser: {KEYS_PER_USER_MAX}"
                    )));
                }
                user.access_keys.insert(id.clone());
                let record = AccessKeyRecord {
                    id: id.clone(),
                    user: user.held.name.clone(),
                    secret: self.sealer.seal(secret.as_bytes(), &place(&id)),
                    active: true,
                    created: cx.now,
                };
                let txn = Txn::new()
                    .when_revision(&*found.key, found.mod_revision)
                    .put_json(&*found.key, &user)
                    .put_json(access_key_key(&self.account, &id), &record);
                Ok((txn, record))
            })
            .await?;
        let made = AccessKey {
            user_name: Some(record.user),
            access_key_id: Some(id),
            status: Some("Active".into()),
            secret_access_key: Some(secret),
            create_date: Some(cx.now),
        };
        Ok(CreateAccessKeyResponse { access_key: Some(made) })
    }

    pub(crate) async fn list_access_keys(
        &self,
        cx: &Context,
        input: ListAccessKeysRequest,
    ) -> Result<ListAccessKeysResponse, ApiError> {
        let user: UserRecord = self.find(&self.user_named(cx, input.user_name)?)?;
        let (ids, is_truncated, marker) =
            page(user.access_keys, |id| id, input.marker.as_deref(), input.max_items)?;
        let keys = ids.iter().filter_map(|id| {
            let record: AccessKeyRecord = get_json(store(self), &access_key_key(&self.account, id))?.record;
            Some(AccessKeyMetadata {
                user_name: Some(record.user),
                access_key_id: Some(record.id),
                status: Some(if record.active { "Active" } else { "Inactive" }.into()),
                create_date: Some(record.created),
            })
        });
        Ok(ListAccessKeysResponse { access_key_metadata: Some(keys.collect()), is_truncated, marker })
    }

    pub(crate) async fn update_access_key(
        &self,
        cx: &Context,
        input: UpdateAccessKeyRequest,
    ) -> Result<UpdateAccessKeyNoOutput, ApiError> {
        let name = self.user_named(cx, input.user_name)?;
        let id = given(input.access_key_id);
        self.key_of(&name, &id)?;
        let active = match input.status.as_deref() {
            Some("Active") => true,
            Some("Inactive") => false,
            _ => {
                return Err(ApiError::new(
                    "ValidationError",
                    "Status must be Active or Inactive: access keys cannot be set to Expired.",
                ));
            }
        };
        update_json(store(self), &access_key_key(&self.account, &id), |found: Option<AccessKeyRecord>| {
            let record = found.ok_or_else(|| missing(&id))?;
            Ok(Some(AccessKeyRecord { active, ..record }))
        })
        .await
        .map_err(refused)?;
        Ok(UpdateAccessKeyNoOutput {})
    }

    pub(crate) async fn delete_access_key(
        &self,
        cx: &Context,
        input: DeleteAccessKeyRequest,
    ) -> Result<DeleteAccessKeyNoOutput, ApiError> {
        let name = self.user_named(cx, input.user_name)?;
        let id = given(input.access_key_id);
        self.transact(|| {
            let found = self.found::<UserRecord>(&name)?;
            let mut user = found.record;
            if !user.access_keys.remove(&id) {
                return Err(missing(&id));
            }
            let txn = Txn::new()
                .when_revision(&*found.key, found.mod_revision)
                .put_json(&*found.key, &user)
                .delete(access_key_key(&self.account, &id));
            Ok((txn, ()))
        })
        .await?;
        Ok(DeleteAccessKeyNoOutput {})
    }

    fn key_of(&self, user: &str, id: &str) -> Result<(), ApiError> {
        let user: UserRecord = self.find(user)?;
        if user.access_keys.contains(id) { Ok(()) } else { Err(missing(id)) }
    }
}

fn missing(id: &str) -> ApiError {
    no_such(format!("The Access Key with id {id} cannot be found."))
}
