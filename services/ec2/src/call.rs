//! One call: who, where, and the way to the records.

use ferrogate_api::{ApiError, Context, PrincipalKind};
use serde::Serialize;

use crate::Ec2Service;
use crate::db::{Changes, Stored, parse};
use crate::errors::{contended, invalid_value};
use crate::operations::defaults;
use crate::state::{ClientTokenRecord, Record, Scope, VpcRecord};

/// How often a transaction that lost a race is decided anew. Each loss means that another one got through.
const ATTEMPTS_MAX: usize = 256;
/// EC2 API reference, "Ensuring idempotency".
const CLIENT_TOKEN_CHARACTERS_MAX: usize = 64;

pub(crate) struct Call<'a> {
    pub service: &'a Ec2Service,
    pub cx: &'a Context,
    pub scope: Scope,
}

/// A call that may come twice.
pub(crate) struct ClientToken {
    pub token: String,
    pub operation: &'static str,
    pub parameters: String,
}

impl<'a> Call<'a> {
    /// Makes the region's defaults if nobody has used it before.
    pub(crate) async fn new(service: &'a Ec2Service, cx: &'a Context) -> Result<Call<'a>, ApiError> {
        let call = Self::unprepared(service, cx);
        defaults::ensure(&call).await?;
        Ok(call)
    }

    /// For looking only: the region may be empty still.
    pub(crate) fn unprepared(service: &'a Ec2Service, cx: &'a Context) -> Call<'a> {
        Self { service, cx, scope: Scope::new(&cx.account, &cx.region) }
    }

    /// `ecs.amazonaws.com`, where a service calls under its own name.
    pub(crate) fn service_principal(&self) -> Option<&str> {
        match &self.cx.principal.kind {
            PrincipalKind::Service { name } => Some(name),
            _ => None,
        }
    }

    pub(crate) fn find<R: Record>(&self, id: &str) -> Result<Option<Stored<R>>, ApiError> {
        self.service.store.get(&self.scope.record::<R>(id)).as_ref().map(Stored::parse).transpose()
    }

    /// As `find`; EC2's own error where there is none.
    pub(crate) fn get<R: Record>(&self, id: &str) -> Result<Stored<R>, ApiError> {
        match self.find(id)? {
            Some(stored) => Ok(stored),
            None => {
                R::KIND.check(id)?;
                Err(R::KIND.not_found(id))
            }
        }
    }

    /// All of the account's in the region, by id.
    pub(crate) fn all<R: Record>(&self) -> Result<Vec<Stored<R>>, ApiError> {
        self.service.store.range(&self.scope.records::<R>()).iter().map(Stored::parse).collect()
    }

    /// Those that a Describe names, all of them if it names none.
    pub(crate) fn named<R: Record>(&self, ids: Option<Vec<String>>) -> Result<Vec<Stored<R>>, ApiError> {
        let mut ids = ids.unwrap_or_default();
        if ids.is_empty() {
            return self.all();
        }
        ids.sort();
        ids.dedup();
        // A malformed one is reported before an unknown one.
        ids.iter().try_for_each(|id| R::KIND.check(id))?;
        ids.iter().map(|id| self.get(id)).collect()
    }

    pub(crate) fn exists(&self, key: &str) -> bool {
        self.service.store.get(key).is_some()
    }

    /// 0: not there.
    pub(crate) fn revision_of(&self, key: &str) -> u64 {
        self.service.store.get(key).map_or(0, |kv| kv.mod_revision)
    }

    /// How many keys begin so.
    pub(crate) fn count(&self, prefix: &str) -> u32 {
        u32::try_from(self.service.store.range(prefix).len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn default_vpc(&self) -> Result<Option<Stored<VpcRecord>>, ApiError> {
        Ok(self.all::<VpcRecord>()?.into_iter().find(|vpc| vpc.is_default))
    }

    /// Decides on a transaction and commits it; decides anew when something it had read has changed meanwhile.
    pub(crate) async fn transact<T>(
        &self,
        mut decide: impl FnMut(&mut Changes) -> Result<T, ApiError> + Send,
    ) -> Result<T, ApiError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut changes = Changes::new(self.scope.clone(), self.service.store.revision());
            let decided = decide(&mut changes)?;
            if changes.is_stale() {
                continue;
            }
            let txn = changes.into_txn();
            if txn.then.is_empty() {
                return Ok(decided);
            }
            match self.service.store.txn(txn).await {
                Ok(result) if result.succeeded => return Ok(decided),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, request_id = %self.cx.request_id, "a transaction was not committed");
                    return Err(ApiError::internal());
                }
            }
        }
        Err(contended())
    }

    pub(crate) fn client_token(
        &self,
        operation: &'static str,
        token: Option<String>,
        parameters: &impl Serialize,
    ) -> Result<Option<ClientToken>, ApiError> {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(None) };
        if !token.is_ascii() || token.len() > CLIENT_TOKEN_CHARACTERS_MAX {
            let message = format!(
                "Invalid client token: it may have up to {CLIENT_TOKEN_CHARACTERS_MAX} ASCII characters"
            );
            return Err(invalid_value(message));
        }
        let text = serde_json::to_vec(parameters).map_err(|_| ApiError::internal())?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        let parameters = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(ClientToken { token, operation, parameters }))
    }

    /// What an earlier call with this token has made.
    pub(crate) fn made_before(&self, token: Option<&ClientToken>) -> Result<Option<String>, ApiError> {
        let Some(token) = token else { return Ok(None) };
        let Some(kv) = self.service.store.get(&self.scope.client_token(&token.token)) else {
            return Ok(None);
        };
        let record: ClientTokenRecord = parse(&kv)?;
        if record.operation != token.operation || record.parameters != token.parameters {
            let message =
                format!("The client token '{}' was used before with other parameters.", token.token);
            return Err(ApiError::new("IdempotentParameterMismatch", message));
        }
        Ok(Some(record.id))
    }
}
