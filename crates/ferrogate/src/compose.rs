//! The composition: which service gets what. Everything in one program is put together here and nowhere else.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_api::{ApiError, BoxFuture, Call, Handler, Invoke, Principal, PrincipalKind, Value};
use ferrogate_control::Driver;
use ferrogate_ec2::{Ec2Options, Ec2Service};
use ferrogate_ecs::EcsService;
use ferrogate_front::{
    Credential, CredentialError, FileTrail, Front, Identity, Limits, PrincipalPolicies, Role, Secret,
};
use ferrogate_iam::IamService;
use ferrogate_image::{ImageStore, Mirror};
use ferrogate_logs::LogsService;
use ferrogate_model::{Clock, SystemClock};
use ferrogate_node::Agent;
use ferrogate_nodeapi::DesiredStatus;
use ferrogate_sandbox::ContainerSandbox;
use ferrogate_store::{RedbStore, Sealer, Store};
use ferrogate_sts::StsService;
use ferrogate_vpc::VpcFabric;
use jiff::Timestamp;

use crate::data::{DataDir, RUN_DIR, RootKey};
use crate::plane::Plane;

/// The one node of `ferrogate up`.
pub(crate) const NODE_ID: &str = "local";
const SHUT_DOWN_PATIENCE: Duration = Duration::from_secs(5);

/// What runs.
pub(crate) struct Ferrogate {
    pub(crate) front: Arc<Front>,
    pub(crate) driver: Driver,
    pub(crate) agent: Arc<Agent>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fabric: VpcFabric,
    ecs: Arc<EcsService>,
    instance: String,
}

pub(crate) struct Options {
    pub(crate) account: String,
    pub(crate) mirrors: Vec<Mirror>,
    /// Where tasks reach the API; `None` while nothing is served.
    pub(crate) api: Option<SocketAddr>,
}

impl Ferrogate {
    pub(crate) async fn open(data: &DataDir, options: Options, root: RootKey) -> Result<Self> {
        let account = options.account;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&data.join("store.redb"))?);
        let sealer = Arc::new(Sealer::open(&data.join("seal.key"))?);
        let late = Arc::new(LateInvoke::default());
        let invoke: Arc<dyn Invoke> = Arc::<LateInvoke>::clone(&late);

        let iam = Arc::new(IamService::new(&account, Arc::clone(&store), Arc::clone(&sealer)));
        let identity: Arc<dyn Identity> = Arc::new(Identities {
            account: account.clone(),
            root,
            iam: Arc::clone(&iam),
            sealer: Arc::clone(&sealer),
        });
        let sts = Arc::new(StsService::new(&account, Arc::clone(&identity), sealer));
        let ec2 = Arc::new(Ec2Service::new(Arc::clone(&store), Ec2Options::default()));
        let logs = Arc::new(LogsService::open(account.as_str(), Arc::clone(&store), data.join("logs"))?);
        let ecs = Arc::new(EcsService::new(
            ferrogate_ecs::Config { nodes: vec![NODE_ID.into()] },
            Arc::clone(&store),
            Arc::clone(&invoke),
            Arc::clone(&clock),
        ));
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(ferrogate_api::iam::Server(iam)),
            Arc::new(ferrogate_api::sts::Server(Arc::clone(&sts))),
            Arc::new(ferrogate_api::ec2::Server(Arc::clone(&ec2))),
            Arc::new(ferrogate_api::ecs::Server(Arc::clone(&ecs))),
            Arc::new(ferrogate_api::logs::Server(Arc::clone(&logs))),
        ];
        let trail = Arc::new(FileTrail::open(data.join("trail"))?);
        let front = Front::new(
            &account,
            handlers,
            Arc::clone(&identity),
            trail,
            Arc::clone(&clock),
            Limits::default(),
        );
        let front = Arc::new(front);
        late.0.set(Arc::downgrade(&front)).unwrap_or_else(|_| unreachable!("set once"));

        let driver = Driver::new(Arc::clone(&store));
        for controller in ecs.controllers().into_iter().chain(logs.controllers()) {
            driver.spawn(controller);
        }

        let instance = data.instance()?;
        let mut network = ferrogate_vpc::Options::new(RUN_DIR, &instance);
        network.api = options.api;
        let fabric = VpcFabric::open(network).await.context("the VPC fabric cannot be opened")?;
        let plane =
            Plane { node_id: NODE_ID.into(), ecs: Arc::clone(&ecs), ec2, sts, identity, invoke, clock };
        let images = ferrogate_image::Config { mirrors: options.mirrors, ..Default::default() };
        let agent = Agent::new(
            ferrogate_node::Config { instance: instance.clone(), tasks_dir: data.join("tasks") },
            Arc::new(plane),
            Arc::new(ImageStore::open(&data.join("images"), images)?),
            fabric.clone(),
            Arc::new(ContainerSandbox::new()?),
        )?;
        Ok(Self { front, driver, agent: Arc::new(agent), store, fabric, ecs, instance })
    }

    /// The ARNs of the node's tasks that nobody has asked to stop yet, in all regions; and how many there are in all.
    pub(crate) fn open_tasks(&self) -> (Vec<String>, usize) {
        let all = Arc::clone(&self.ecs.assignments(NODE_ID).borrow());
        let open = all
            .iter()
            .filter(|task| task.desired == DesiredStatus::Running)
            .map(|task| task.task_arn.clone());
        (open.collect(), all.len())
    }

    /// As the root user would: StopTask, through the front.
    pub(crate) async fn stop_task(&self, task_arn: &str, reason: &str) -> Result<()> {
        let arn: ferrogate_model::Arn = task_arn.parse()?;
        let cluster = arn.resource_id().split('/').next().unwrap_or_default().to_owned();
        let client = ferrogate_api::ecs::Client::new(
            Arc::<Front>::clone(&self.front),
            ferrogate_api::Caller::Forward(Arc::new(root_principal(&arn.account))),
            arn.region.as_str(),
        );
        let stop = ferrogate_api::ecs::StopTaskRequest {
            cluster: Some(cluster),
            task: Some(task_arn.to_owned()),
            reason: Some(reason.to_owned()),
        };
        client.stop_task(stop).await.map(drop).with_context(|| format!("{task_arn} could not be stopped"))
    }

    /// What stands beside tasks, once none of them is left: the fabric, the instance's cgroup.
    pub(crate) async fn remove_rest(&self) -> Result<()> {
        self.fabric.clone().destroy_all().await?;
        ContainerSandbox::remove_instance(&self.instance).await?;
        Ok(())
    }

    /// Activations under way are finished. Tasks go on.
    pub(crate) async fn shut_down(&self) {
        self.driver.shut_down(SHUT_DOWN_PATIENCE).await;
    }
}

/// The services are made before the front that joins them.
#[derive(Default)]
struct LateInvoke(OnceLock<std::sync::Weak<Front>>);

impl Invoke for LateInvoke {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let front = self.0.get().and_then(std::sync::Weak::upgrade).ok_or_else(ApiError::internal)?;
            front.invoke(call).await
        })
    }
}

/// Who is who: the root user, IAM's users, STS's sessions.
struct Identities {
    account: String,
    root: RootKey,
    iam: Arc<IamService>,
    sealer: Arc<Sealer>,
}

impl Identity for Identities {
    fn credential(
        &self,
        access_key_id: &str,
        session_token: Option<&str>,
        now: Timestamp,
    ) -> Result<Credential, CredentialError> {
        if access_key_id == self.root.access_key_id {
            if session_token.is_some() {
                return Err(CredentialError::InvalidToken);
            }
            let principal = root_principal(&self.account);
            return Ok(Credential {
                secret: Secret::new(&self.root.secret_access_key),
                principal: Arc::new(principal),
            });
        }
        if access_key_id.starts_with("ASIA") {
            return ferrogate_sts::credential(&self.sealer, access_key_id, session_token, now);
        }
        self.iam.credential(access_key_id, session_token)
    }

    fn policies(&self, principal: &Principal) -> PrincipalPolicies {
        self.iam.policies(principal)
    }

    fn role(&self, role_arn: &str) -> Option<Role> {
        self.iam.role(role_arn)
    }
}

fn root_principal(account: &str) -> Principal {
    Principal {
        arn: format!("arn:aws:iam::{account}:root"),
        account: account.to_owned(),
        user_id: account.to_owned(),
        kind: PrincipalKind::Root,
        tags: Vec::new(),
    }
}
