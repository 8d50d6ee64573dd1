//! One call: who, where, and the way to the records.

use ferrogate_api::{ApiError, Caller, Context, ec2};
use ferrogate_store::{Json, Txn, get_json, range_json};
use serde::de::DeserializeOwned;

use crate::ElbService;
use crate::errors::{contended, failed, invalid, no_balancer, no_group, no_listener, no_rule};
use crate::state::*;

/// The name under which ELB calls other services.
pub(crate) const SERVICE_PRINCIPAL: &str = "elasticloadbalancing.amazonaws.com";
/// How often a decision that lost a race is made anew. Each loss means that another one got through.
const ATTEMPTS_MAX: usize = 256;

pub(crate) struct Call<'a> {
    pub(crate) service: &'a ElbService,
    pub(crate) cx: &'a Context,
    pub(crate) scope: Scope,
}

impl<'a> Call<'a> {
    pub(crate) fn new(service: &'a ElbService, cx: &'a Context) -> Self {
        let scope = Scope { account: cx.account.clone(), region: cx.region.clone() };
        Self { service, cx, scope }
    }

    /// Makes a decision on the records as they are and commits it; if another one of this account and region got
    /// through meanwhile, anew. So a decision may look at as many records as it likes.
    pub(crate) async fn decide<T>(
        &self,
        mut decision: impl FnMut() -> Result<(Txn, T), ApiError>,
    ) -> Result<T, ApiError> {
        let guard = self.scope.decision();
        for _ in 0..ATTEMPTS_MAX {
            let revision = self.service.store.get(&guard).map_or(0, |kv| kv.mod_revision);
            let (txn, decided) = decision()?;
            if txn.then.is_empty() {
                return Ok(decided);
            }
            let txn = txn.when_revision(guard.as_str(), revision).put(guard.as_str(), *b"{}");
            if self.service.store.txn(txn).await.map_err(failed)?.succeeded {
                return Ok(decided);
            }
        }
        Err(contended())
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, kind: Kind, id: &str) -> Option<Json<T>> {
        get_json(&*self.service.store, &self.scope.key(kind, id))
    }

    /// All records of a kind whose id begins so.
    pub(crate) fn all<T: DeserializeOwned>(&self, kind: Kind, below: &str) -> Vec<T> {
        let found = range_json::<T>(&*self.service.store, &self.scope.key(kind, below));
        found.into_iter().map(|found| found.record).collect()
    }

    pub(crate) fn balancers(&self) -> Vec<BalancerRecord> {
        let mut all: Vec<BalancerRecord> = self.all(Kind::Balancer, "");
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn groups(&self) -> Vec<GroupRecord> {
        let mut all: Vec<GroupRecord> = self.all(Kind::Group, "");
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn listeners(&self, balancer_id: &str) -> Vec<ListenerRecord> {
        self.all(Kind::Listener, &format!("{balancer_id}/"))
    }

    /// By priority.
    pub(crate) fn rules(&self, listener_id: &str) -> Vec<RuleRecord> {
        let mut rules: Vec<RuleRecord> = self.all(Kind::Rule, &format!("{listener_id}/"));
        rules.sort_by_key(|rule| rule.priority);
        rules
    }

    pub(crate) fn targets(&self, group_id: &str) -> TargetsRecord {
        self.get(Kind::Targets, group_id).map(|found| found.record).unwrap_or_default()
    }

    pub(crate) fn balancer(&self, arn: &str) -> Result<BalancerRecord, ApiError> {
        let [_, name, id] = self.path::<3>(arn, "loadbalancer", "load balancer")?;
        let found = self.get::<BalancerRecord>(Kind::Balancer, id).map(|found| found.record);
        found.filter(|record| record.name == name).ok_or_else(|| no_balancer(arn))
    }

    pub(crate) fn listener(&self, arn: &str) -> Result<ListenerRecord, ApiError> {
        let [_, _, balancer, id] = self.path::<4>(arn, "listener", "listener")?;
        let found = self.get(Kind::Listener, &format!("{balancer}/{id}"));
        found.map(|found| found.record).ok_or_else(|| no_listener(arn))
    }

    /// The default rule is its listener's.
    pub(crate) fn rule(&self, arn: &str) -> Result<AnyRule, ApiError> {
        let [_, _, balancer, listener, id] = self.path::<5>(arn, "listener-rule", "listener rule")?;
        if let Some(found) = self.get(Kind::Rule, &format!("{listener}/{id}")) {
            return Ok(AnyRule::Own(Box::new(found.record)));
        }
        let of = self.get::<ListenerRecord>(Kind::Listener, &format!("{balancer}/{listener}"));
        let of = of.map(|found| found.record).filter(|record| record.default_rule_id == id);
        of.map(|record| AnyRule::Default(Box::new(record))).ok_or_else(|| no_rule(arn))
    }

    pub(crate) fn group(&self, arn: &str) -> Result<GroupRecord, ApiError> {
        let [name, id] = self.path::<2>(arn, "targetgroup", "target group")?;
        let found = self.get::<GroupRecord>(Kind::Group, id).map(|found| found.record);
        found.filter(|record| record.name == name).ok_or_else(|| no_group(arn))
    }

    /// What follows the type in an ARN of this account and region.
    fn path<'t, const N: usize>(
        &self,
        arn: &'t str,
        kind: &str,
        called: &str,
    ) -> Result<[&'t str; N], ApiError> {
        let start = self.scope.arn(kind);
        let rest = arn.strip_prefix(&start).and_then(|rest| rest.strip_prefix('/'));
        let parts: Option<Vec<&str>> = rest.map(|rest| rest.split('/').collect());
        parts
            .and_then(|parts| parts.try_into().ok())
            .ok_or_else(|| invalid(format!("'{arn}' is not a valid {called} ARN")))
    }

    /// EC2, in ELB's own name.
    pub(crate) fn ec2(&self) -> ec2::Client {
        self.service.ec2(&self.scope)
    }
}

impl ElbService {
    pub(crate) fn caller(scope: &Scope) -> Caller {
        Caller::Service { name: SERVICE_PRINCIPAL, account: scope.account.clone() }
    }

    pub(crate) fn ec2(&self, scope: &Scope) -> ec2::Client {
        ec2::Client::new(std::sync::Arc::clone(&self.invoke), Self::caller(scope), &scope.region)
    }
}

/// A rule that was made, or that a listener came with.
pub(crate) enum AnyRule {
    Own(Box<RuleRecord>),
    Default(Box<ListenerRecord>),
}

/// A required member: the codec has seen it.
pub(crate) fn given(member: Option<String>) -> String {
    member.unwrap_or_default()
}
