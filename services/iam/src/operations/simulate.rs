//! The policy simulator: the evaluator of every call, asked without a call.
//!
//! Not simulated, and refused: EC2 scenarios, organizations' policies, exclusions. Left out of the answers: where in
//! a document a statement stands. Context keys that a real call would bring (time, source address …) have to be
//! given, as on AWS; those that are not are listed as missing.

use std::collections::BTreeSet;

use ferrogate_api::iam::*;
use ferrogate_api::{ApiError, Context};
use ferrogate_policy::{
    self as policy, Decision, DocumentKind, Named, Outcome, Policies, Policy as Document, PolicyKind,
    PrincipalKind,
};

use super::{given, page};
use crate::IamService;
use crate::identity::Sourced;
use crate::state::{GroupRecord, Holder, RoleRecord, UserRecord};

/// Combinations of actions and resources in one simulation.
const COMBINATIONS_MAX: usize = 10_000;

/// Keys that follow from the principal and the resource: nobody has to give them.
const DERIVED_KEYS: [&str; 8] = [
    "aws:PrincipalArn",
    "aws:PrincipalAccount",
    "aws:userid",
    "aws:username",
    "aws:PrincipalType",
    "aws:PrincipalIsAWSService",
    "aws:PrincipalServiceName",
    "aws:ResourceAccount",
];

/// Whose rights are simulated.
#[derive(Default)]
struct Subject {
    arn: String,
    account: String,
    id: String,
    tags: Vec<(String, String)>,
    /// `None`: a group, a role, or nobody: not who calls.
    user: Option<String>,
    role: Option<String>,
    policies: Vec<Sourced>,
    boundary: Option<Named>,
}

/// What both operations have in common.
struct Simulation {
    subject: Subject,
    resource_policy: Option<Named>,
    resource_owner: String,
    actions: Vec<String>,
    resources: Vec<String>,
    context: policy::Context,
    missing: Vec<String>,
}

impl IamService {
    pub(crate) async fn simulate_principal_policy(
        &self,
        _: &Context,
        input: SimulatePrincipalPolicyRequest,
    ) -> Result<SimulatePolicyResponse, ApiError> {
        if input.policy_exclusion_list.is_some_and(|list| !list.is_empty()) {
            return Err(invalid(
                "PolicyExclusionList is not supported by Ferrogate's simulator yet: leave it out",
            ));
        }
        let mut subject = self.subject(&given(input.policy_source_arn))?;
        subject.policies.extend(inputs("PolicyInputList", input.policy_input_list)?);
        let custom = SimulateCustomPolicyRequest {
            policy_input_list: None,
            permissions_boundary_policy_input_list: input.permissions_boundary_policy_input_list,
            ordered_organization_policy_input_list: None,
            action_names: input.action_names,
            resource_arns: input.resource_arns,
            resource_policy: input.resource_policy,
            resource_owner: input.resource_owner,
            caller_arn: input.caller_arn,
            context_entries: input.context_entries,
            resource_handling_option: input.resource_handling_option,
            max_items: input.max_items,
            marker: input.marker,
        };
        self.simulate(subject, custom)
    }

    pub(crate) async fn simulate_custom_policy(
        &self,
        _: &Context,
        mut input: SimulateCustomPolicyRequest,
    ) -> Result<SimulatePolicyResponse, ApiError> {
        let policies = inputs("PolicyInputList", input.policy_input_list.take())?;
        self.simulate(Subject { account: self.account.clone(), policies, ..Subject::default() }, input)
    }

    pub(crate) async fn get_context_keys_for_custom_policy(
        &self,
        _: &Context,
        input: GetContextKeysForCustomPolicyRequest,
    ) -> Result<GetContextKeysForPolicyResponse, ApiError> {
        Ok(context_keys(&inputs("PolicyInputList", input.policy_input_list)?))
    }

    pub(crate) async fn get_context_keys_for_principal_policy(
        &self,
        _: &Context,
        input: GetContextKeysForPrincipalPolicyRequest,
    ) -> Result<GetContextKeysForPolicyResponse, ApiError> {
        let mut policies = self.subject(&given(input.policy_source_arn))?.policies;
        policies.extend(inputs("PolicyInputList", input.policy_input_list)?);
        Ok(context_keys(&policies))
    }

    /// The user, group or role of this ARN.
    fn subject(&self, arn: &str) -> Result<Subject, ApiError> {
        let undefined =
            || invalid(format!("Invalid Entity Arn: {arn} does not clearly define entity type and name."));
        let prefix = format!("arn:aws:iam::{}:", self.account);
        let (kind, path) =
            arn.strip_prefix(&prefix).and_then(|resource| resource.split_once('/')).ok_or_else(undefined)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut subject = match kind {
            "user" => {
                let user: UserRecord = self.find(name)?;
                Subject {
                    user: Some(user.held.name.clone()),
                    policies: self.user_policies(&user),
                    ..self.held_subject(&user)
                }
            }
            "role" => {
                let role: RoleRecord = self.find(name)?;
                Subject { role: Some(role.arn(&self.account)), ..self.held_subject(&role) }
            }
            "group" => self.held_subject(&self.find::<GroupRecord>(name)?),
            _ => return Err(undefined()),
        };
        if subject.arn != arn {
            return Err(super::no_such(format!("The {kind} with ARN {arn} cannot be found.")));
        }
        subject.account.clone_from(&self.account);
        Ok(subject)
    }

    fn held_subject<T: Holder>(&self, holder: &T) -> Subject {
        let held = holder.held();
        Subject {
            arn: holder.arn(&self.account),
            id: held.id.clone(),
            tags: held.tags.clone().into_iter().collect(),
            policies: self.held_policies(holder),
            boundary: held.boundary.as_ref().map(|arn| self.managed(arn)),
            ..Subject::default()
        }
    }

    fn simulate(
        &self,
        mut subject: Subject,
        input: SimulateCustomPolicyRequest,
    ) -> Result<SimulatePolicyResponse, ApiError> {
        refuse_unsupported(&input)?;
        if let Some(boundary) = boundary(input.permissions_boundary_policy_input_list)? {
            subject.boundary = Some(boundary);
        }
        let resource_policy = input.resource_policy.map(|text| resource_policy(&text)).transpose()?;
        self.call_as(&mut subject, input.caller_arn, resource_policy.is_some())?;
        let mut context = policy::Context::new();
        let mut given_keys = BTreeSet::new();
        for entry in input.context_entries.into_iter().flatten() {
            let key = given(entry.context_key_name);
            context.set_all(&key, entry.context_key_values.unwrap_or_default());
            given_keys.insert(key.to_lowercase());
        }
        let all =
            subject.policies.iter().map(|of| &of.named).chain(&subject.boundary).chain(&resource_policy);
        let simulation = Simulation {
            missing: missing(all, &given_keys),
            actions: actions(input.action_names)?,
            resources: input
                .resource_arns
                .filter(|arns| !arns.is_empty())
                .unwrap_or_else(|| vec!["*".into()]),
            resource_owner: account(&input.resource_owner.unwrap_or_default()).to_owned(),
            resource_policy,
            context,
            subject,
        };
        let count = simulation.actions.len() * simulation.resources.len();
        if count > COMBINATIONS_MAX {
            return Err(invalid(format!(
                "{count} combinations of actions and resources; at most {COMBINATIONS_MAX} are simulated at once"
            )));
        }
        let places = (0..count).map(|at| format!("{at:06}"));
        let (places, is_truncated, marker) =
            page(places, |place| place, input.marker.as_deref(), input.max_items)?;
        let results = places.iter().filter_map(|place| place.parse().ok()).map(|at: usize| {
            let (action, resource) = (at / simulation.resources.len(), at % simulation.resources.len());
            simulation.result(&simulation.actions[action], &simulation.resources[resource])
        });
        Ok(SimulatePolicyResponse { evaluation_results: Some(results.collect()), is_truncated, marker })
    }

    /// Who makes the simulated call, where it is not the user whose policies they are.
    fn call_as(&self, subject: &mut Subject, caller: Option<String>, needed: bool) -> Result<(), ApiError> {
        let Some(arn) = caller else {
            if needed && subject.user.is_none() {
                return Err(invalid(
                    "CallerArn is required with a ResourcePolicy, unless the policies are a user's.",
                ));
            }
            return Ok(());
        };
        let name = arn.split_once(":user/").map(|(_, path)| path.rsplit('/').next().unwrap_or_default());
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(invalid(format!("CallerArn must be the ARN of an IAM user, not {arn}")));
        };
        // One of ours is taken as it is; of a stranger only the ARN is known.
        let known = self.holder::<UserRecord>(name).filter(|user| user.arn(&self.account) == arn);
        subject.user = Some(name.to_owned());
        subject.role = None;
        account(&arn).clone_into(&mut subject.account);
        subject.id = known.as_ref().map(|user| user.held.id.clone()).unwrap_or_default();
        subject.tags = known.map(|user| user.held.tags.into_iter().collect()).unwrap_or_default();
        subject.arn = arn;
        Ok(())
    }
}

impl Simulation {
    fn result(&self, action: &str, resource: &str) -> EvaluationResult {
        let subject = &self.subject;
        let resource_account = match account(resource) {
            "" => self.resource_owner.as_str(),
            account => account,
        };
        let kind = match (&subject.user, &subject.role) {
            (Some(name), _) => PrincipalKind::User { name },
            (None, Some(role_arn)) => PrincipalKind::AssumedRole { role_arn },
            // A group or loose policies: somebody of the account, without a name.
            (None, None) => PrincipalKind::AssumedRole { role_arn: "" },
        };
        let request = policy::Request {
            principal: policy::Principal {
                arn: &subject.arn,
                account: &subject.account,
                kind,
                id: &subject.id,
                tags: &subject.tags,
            },
            action,
            resource,
            resource_account,
            context: &self.context,
        };
        let identity: Vec<Named> = subject.policies.iter().map(|of| of.named.clone()).collect();
        let policies = Policies {
            identity: &identity,
            boundary: subject.boundary.as_ref(),
            resource: self.resource_policy.as_ref(),
            ..Policies::default()
        };
        let decision = policy::evaluate(&request, &policies);
        EvaluationResult {
            eval_action_name: Some(action.to_owned()),
            eval_resource_name: Some(resource.to_owned()),
            eval_decision: Some(said(decision.outcome).to_owned()),
            matched_statements: Some(self.matched(&decision).into_iter().collect()),
            missing_context_values: Some(self.missing.clone()),
            permissions_boundary_decision_detail: subject.boundary.as_ref().map(|boundary| {
                let alone = Policies { identity: std::slice::from_ref(boundary), ..Policies::default() };
                let request = policy::Request { resource_account: "", ..request };
                let allowed = policy::evaluate(&request, &alone).is_allowed();
                PermissionsBoundaryDecisionDetail { allowed_by_permissions_boundary: Some(allowed) }
            }),
            ..EvaluationResult::default()
        }
    }

    fn matched(&self, decision: &Decision) -> Option<Statement> {
        let matched = decision.matched.as_ref()?;
        let source = match matched.kind {
            PolicyKind::Resource => "resource",
            PolicyKind::Boundary => "none",
            _ => self
                .subject
                .policies
                .iter()
                .find(|of| of.named.name == matched.policy)
                .map_or("none", |of| of.source),
        };
        let name = matched.policy.rsplit('/').next().unwrap_or_default();
        Some(Statement {
            source_policy_id: Some(name.to_owned()),
            source_policy_type: Some(source.to_owned()),
            ..Statement::default()
        })
    }
}

fn said(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allowed",
        Outcome::ExplicitDeny => "explicitDeny",
        Outcome::ImplicitDeny => "implicitDeny",
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidInput", message)
}

fn refuse_unsupported(input: &SimulateCustomPolicyRequest) -> Result<(), ApiError> {
    let given = [
        ("OrderedOrganizationPolicyInputList", input.ordered_organization_policy_input_list.is_some()),
        ("ResourceHandlingOption", input.resource_handling_option.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => {
            Err(invalid(format!("{name} is not supported by Ferrogate's simulator yet: leave it out")))
        }
    }
}

fn parse(text: &str, kind: DocumentKind, name: String) -> Result<Named, ApiError> {
    let policy = Document::parse(text, kind).map_err(|error| invalid(format!("{name}: {error}")))?;
    Ok(Named { name: name.into(), policy })
}

/// Documents given as text, named by their place: `PolicyInputList.1`.
fn inputs(list: &str, texts: Option<Vec<String>>) -> Result<Vec<Sourced>, ApiError> {
    let texts = texts.unwrap_or_default();
    let parsed = texts.iter().enumerate().map(|(index, text)| {
        let named = parse(text, DocumentKind::Identity, format!("{list}.{}", index + 1))?;
        Ok(Sourced { source: "none", named })
    });
    parsed.collect()
}

fn boundary(texts: Option<Vec<String>>) -> Result<Option<Named>, ApiError> {
    let mut given = inputs("PermissionsBoundaryPolicyInputList", texts)?;
    if given.len() > 1 {
        return Err(invalid("PermissionsBoundaryPolicyInputList takes one policy"));
    }
    Ok(given.pop().map(|of| of.named))
}

fn resource_policy(text: &str) -> Result<Named, ApiError> {
    parse(text, DocumentKind::Resource, "ResourcePolicy".into())
}

fn actions(names: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let names = names.unwrap_or_default();
    let is_action = |name: &str| {
        name.split_once(':').is_some_and(|(service, action)| !service.is_empty() && !action.is_empty())
            && !name.contains(['*', '?'])
    };
    match names.iter().find(|name| !is_action(name)) {
        Some(wrong) => Err(invalid(format!("Invalid Action: {wrong}"))),
        None => Ok(names),
    }
}

/// The account in an ARN, or that is given as such.
fn account(text: &str) -> &str {
    let account = if text.starts_with("arn:") { text.split(':').nth(4).unwrap_or_default() } else { text };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    if is_account { account } else { "" }
}

fn missing<'a>(policies: impl Iterator<Item = &'a Named>, given: &BTreeSet<String>) -> Vec<String> {
    let derived = |key: &str| {
        DERIVED_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))
            || key.to_lowercase().starts_with("aws:principaltag/")
    };
    let keys: BTreeSet<&str> = policies.flat_map(|of| of.policy.context_keys()).collect();
    let absent = keys.into_iter().filter(|key| !derived(key) && !given.contains(&key.to_lowercase()));
    absent.map(str::to_owned).collect()
}

fn context_keys(policies: &[Sourced]) -> GetContextKeysForPolicyResponse {
    let keys: BTreeSet<&str> = policies.iter().flat_map(|of| of.named.policy.context_keys()).collect();
    GetContextKeysForPolicyResponse { context_key_names: Some(keys.into_iter().map(str::to_owned).collect()) }
}
