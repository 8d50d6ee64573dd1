//! The composition: which service gets what. Everything in one program is put together here and nowhere else.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_acm::AcmService;
use ferrogate_api::{ApiError, BoxFuture, Call, Handler, Invoke, Principal, PrincipalKind, Value};
use ferrogate_control::Driver;
use ferrogate_discovery::DiscoveryService;
use ferrogate_ec2::{Ec2Options, Ec2Service};
use ferrogate_ecr::{EcrOptions, EcrService, Upstream};
use ferrogate_ecs::EcsService;
use ferrogate_elb::{ElbOptions, ElbService};
use ferrogate_front::{
    Credential, CredentialError, FileTrail, Front, Identity, Limits, PrincipalPolicies, Role, Secret,
};
use ferrogate_iam::IamService;
use ferrogate_image::{ImageStore, Mirror, OwnRegistry};
use ferrogate_logs::LogsService;
use ferrogate_model::{Clock, SystemClock};
use ferrogate_node::{Agent, EdgeConfig, end_balancers};
use ferrogate_nodeapi::{Certificate, DesiredStatus};
use ferrogate_route53::Route53Service;
use ferrogate_sandbox::ContainerSandbox;
use ferrogate_sandbox::microvm::Snapshots;
use ferrogate_secrets::SecretsService;
use ferrogate_ssm::SsmService;
use ferrogate_store::{RedbStore, Sealer, Store};
use ferrogate_sts::StsService;
use ferrogate_vpc::VpcFabric;
use jiff::Timestamp;

use crate::balancer_door::BalancerDoor;
use crate::data::{DataDir, RUN_DIR, RootKey};
use crate::exec::ExecDoor;
use crate::explain;
use crate::machine_memory;
use crate::plane::{Plane, edge};
use crate::pre_pull;

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
    ec2: Arc<Ec2Service>,
    instance: String,
    explain: explain::Sources,
    /// What tasks run in, in words.
    pub(crate) isolation: String,
    /// Of booted machines; `None`: there are none, or each is booted.
    pub(crate) snapshots: Option<Arc<Snapshots>>,
}

pub(crate) struct Options {
    pub(crate) account: String,
    /// Of what names no region.
    pub(crate) region: String,
    pub(crate) mirrors: Vec<Mirror>,
    /// Unpacked; `None`: as much as the disk has.
    pub(crate) image_cache_bytes_max: Option<u64>,
    /// Fetch images when a task definition names them.
    pub(crate) pre_pull: bool,
    /// What tasks run in.
    pub(crate) isolation: crate::isolation::Wanted,
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
        let sts = Arc::new(StsService::new(&account, Arc::clone(&identity), Arc::clone(&sealer)));
        let ec2 = Arc::new(Ec2Service::new(Arc::clone(&store), Ec2Options::default()));
        let logs = Arc::new(LogsService::open(account.as_str(), Arc::clone(&store), data.join("logs"))?);
        let api = format!("http://{}", options.api.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))));
        let ecr = EcrService::open(
            EcrOptions {
                upstreams: upstreams(&options.mirrors),
                ..EcrOptions::new(&account, &api, &options.region)
            },
            Arc::clone(&store),
            Arc::clone(&sealer),
            data.join("ecr"),
        );
        let ecr = Arc::new(ecr?);
        let secrets =
            Arc::new(SecretsService::new(Arc::clone(&store), Arc::clone(&sealer), Arc::clone(&invoke)));
        let ssm = Arc::new(SsmService::new(Arc::clone(&store), Arc::clone(&sealer)));
        let this_node = ferrogate_ecs::Node::here(NODE_ID, machine_memory::total_mib()?);
        let ecs = Arc::new(EcsService::new(
            ferrogate_ecs::Config { nodes: vec![this_node.clone()] },
            Arc::clone(&store),
            Arc::clone(&invoke),
            Arc::clone(&clock),
        ));
        let acm = Arc::new(AcmService::new(Arc::clone(&store), Arc::clone(&sealer)));
        let elb = ElbOptions {
            nodes: vec![NODE_ID.into()],
            public_address_in_vpc: ferrogate_vpc::wire_address,
            objects: data.join("objects"),
            spool: data.join("elb-logs"),
        };
        let elb = ElbService::open(elb, Arc::clone(&store), Arc::clone(&invoke), Arc::clone(&clock))?;
        let elb = Arc::new(elb);
        let route53 = Arc::new(Route53Service::new(Arc::clone(&store), Arc::clone(&invoke)));
        let discovery = Arc::new(DiscoveryService::new(Arc::clone(&store)));
        let handlers: Vec<Arc<dyn Handler>> = vec![
            Arc::new(ferrogate_api::route53::Server(Arc::clone(&route53))),
            Arc::new(ferrogate_api::servicediscovery::Server(Arc::clone(&discovery))),
            Arc::new(ferrogate_api::iam::Server(Arc::clone(&iam))),
            Arc::new(ferrogate_api::sts::Server(Arc::clone(&sts))),
            Arc::new(ferrogate_api::acm::Server(Arc::clone(&acm))),
            Arc::new(ferrogate_api::ec2::Server(Arc::clone(&ec2))),
            Arc::new(ferrogate_api::ecr::Server(Arc::clone(&ecr))),
            Arc::new(ferrogate_api::ecs::Server(Arc::clone(&ecs))),
            Arc::new(ferrogate_api::elbv2::Server(Arc::clone(&elb))),
            Arc::new(ferrogate_api::logs::Server(Arc::clone(&logs))),
            Arc::new(ferrogate_api::secretsmanager::Server(Arc::clone(&secrets))),
            Arc::new(ferrogate_api::ssm::Server(Arc::clone(&ssm))),
        ];
        let exec_door = Arc::new(ExecDoor::new(Arc::clone(&ecs), Arc::clone(&invoke), Arc::clone(&clock)));
        ssm.serve_sessions_of(Arc::<ExecDoor>::clone(&exec_door));
        if let Some(api) = options.api {
            ecs.serve_sessions_at(format!("ws://{api}"));
        }
        let trail = Arc::new(FileTrail::open(data.join("trail"))?);
        let front = Front::new(
            &account,
            handlers,
            Arc::clone(&identity),
            trail,
            Arc::clone(&clock),
            Limits::default(),
        )
        .with_doors(vec![
            ecr.door(Arc::clone(&invoke), Arc::clone(&clock)),
            Arc::<ExecDoor>::clone(&exec_door),
            Arc::new(BalancerDoor::new(elb.balancers(NODE_ID))),
        ]);
        let front = Arc::new(front);
        late.0.set(Arc::downgrade(&front)).unwrap_or_else(|_| unreachable!("set once"));

        let driver = Driver::new(Arc::clone(&store));
        for controller in
            ecs.controllers().into_iter().chain(logs.controllers()).chain(ecr.controllers(&clock))
        {
            driver.spawn(controller);
        }
        for controller in discovery.controllers(Arc::clone(&invoke), Arc::clone(&clock)) {
            driver.spawn(controller);
        }
        for controller in secrets.controllers(Arc::clone(&clock)).into_iter().chain(elb.controllers()) {
            driver.spawn(controller);
        }

        let instance = data.instance()?;
        let explain = explain::Sources {
            invoke: Arc::clone(&invoke),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&clock),
            root: root_principal(&account),
            node: this_node,
        };
        let plane = Plane {
            node_id: NODE_ID.into(),
            ecs: Arc::clone(&ecs),
            ec2: Arc::clone(&ec2),
            sts,
            identity,
            invoke,
            clock,
        };
        let chosen = Box::pin(crate::isolation::choose(data, &instance, &options.isolation)).await?;
        let images = ferrogate_image::Config {
            mirrors: options.mirrors,
            own: options.api.map(|_| own_registry(&account, &api)),
            upkeep: ferrogate_image::Upkeep {
                max_bytes: options.image_cache_bytes_max,
                ..Default::default()
            },
            ..Default::default()
        };
        let images = Arc::new(ImageStore::open(&data.join("images"), images)?);
        if options.pre_pull {
            tokio::spawn(pre_pull::run(ecs.registered_definitions(), Arc::clone(&images)));
        }
        // Last of what may be refused: it outlives the program.
        let mut network = ferrogate_vpc::Options::new(RUN_DIR, &instance);
        network.api = options.api;
        let fabric = VpcFabric::open(network).await.context("the VPC fabric cannot be opened")?;
        let agent = Agent::new(
            ferrogate_node::Config { instance: instance.clone(), tasks_dir: data.join("tasks") },
            Arc::new(plane),
            images,
            fabric.clone(),
            Arc::new(chosen.sandbox),
        )?;
        let names = edge::merged(vec![elb.names(), route53.names()]);
        let edges = edge::Edges {
            node_id: NODE_ID.into(),
            elb: Arc::clone(&elb),
            names: names.clone(),
            endpoints: discovery.endpoints(),
            certificates: vec![acm, iam],
        };
        let edges =
            EdgeConfig { run_dir: RUN_DIR.into(), program: EdgeConfig::beside()?, plane: Arc::new(edges) };
        let agent = Arc::new(agent.with_names(names).with_edge(edges));
        let broker: Arc<dyn ferrogate_node::ExecBroker> = Arc::<Agent>::clone(&agent);
        exec_door.connect(Arc::downgrade(&broker));
        let (isolation, snapshots) = (chosen.words, chosen.snapshots);
        if let Some(snapshots) = &snapshots {
            snapshots.start();
            tokio::spawn(crate::isolation::snapshots_ahead(
                ecs.registered_definitions(),
                Arc::clone(snapshots),
            ));
        }
        Ok(Self { front, driver, agent, store, fabric, ecs, ec2, instance, explain, isolation, snapshots })
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

    /// Nobody starts a task in place of one that is stopped, until the next start.
    pub(crate) fn close_services(&self) {
        self.ecs.close_services();
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

    /// Why a task is as it is.
    pub(crate) async fn explain(&self, task_arn: &str) -> Result<ferrogate_explain::Explanation> {
        let id = task_arn.rsplit('/').next().unwrap_or_default();
        let summary = self.agent.tasks().into_iter().find(|task| task.task_arn == task_arn);
        let listeners = self.agent.listeners(task_arn).await;
        let known = explain::Known {
            fabric: self.ec2.whole_fabric(),
            progress: summary.and_then(|task| task.progress),
            output: self.agent.output_dirs(id).into_iter().collect(),
            listeners,
        };
        Ok(ferrogate_explain::explain(&explain::gather(&self.explain, known, task_arn).await?))
    }

    /// What stands beside tasks, once none of them is left: the fabric, the instance's cgroup.
    pub(crate) async fn remove_rest(&self) -> Result<()> {
        end_balancers(RUN_DIR.as_ref(), &self.instance, &self.fabric).await?;
        self.fabric.clone().destroy_all().await?;
        ContainerSandbox::remove_instance(&self.instance).await?;
        Ok(())
    }

    /// Activations under way are finished. Tasks go on.
    pub(crate) async fn shut_down(&self) {
        self.driver.shut_down(SHUT_DOWN_PATIENCE).await;
        if let Some(snapshots) = &self.snapshots
            && let Err(error) = snapshots.stop().await
        {
            tracing::warn!(%error, "the machine of a snapshot is not ended");
        }
    }
}

impl edge::CertificateSource for AcmService {
    fn certificate(&self, arn: &str) -> Option<Certificate> {
        self.certificate(arn)
    }
}

impl edge::CertificateSource for IamService {
    fn certificate(&self, arn: &str) -> Option<Certificate> {
        self.server_certificate(arn)
    }
}

/// What the node pulls from a mirror, ECR's cache rules do as well.
fn upstreams(mirrors: &[Mirror]) -> Vec<Upstream> {
    let upstream =
        |mirror: &Mirror| Upstream { prefix: mirror.prefix.clone(), target: mirror.target.clone() };
    mirrors.iter().map(upstream).collect()
}

/// ECR's images, whatever they are called: as on AWS, and as clients on this machine call them.
fn own_registry(account: &str, api: &str) -> OwnRegistry {
    let port = api.rsplit(':').next().unwrap_or_default();
    OwnRegistry {
        prefix: format!("{account}.dkr.ecr."),
        suffixes: vec![".amazonaws.com".into(), format!(".localhost:{port}")],
        url: api.to_owned(),
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

pub(crate) fn root_principal(account: &str) -> Principal {
    Principal {
        arn: format!("arn:aws:iam::{account}:root"),
        account: account.to_owned(),
        user_id: account.to_owned(),
        kind: PrincipalKind::Root,
        tags: Vec::new(),
    }
}
