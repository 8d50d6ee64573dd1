//! Service Connect: the proxy of one task (docs/adr/0015), a `ferrogate-edge` process in the task's network namespace and in
//! its cgroup.
//!
//! It stands before the task's first container and goes on without the agent, which finds it by the socket in the sandbox's
//! folder. A task in a micro-VM has it on this side of the machine ([`machine`]). It ends with the sandbox, whoever removes that: cgroup, folder and process are below the sandbox's own.

mod machine;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrogate_edge::connect::ConnectConfiguration;
use ferrogate_edge::control::ToEdge;
use ferrogate_nodeapi::{Connect, Endpoints, TaskAssignment};
use ferrogate_vpc::VpcFabric;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::balancer::actor::{HEALTHY_LIFE, RESTART_MIN, ended};
use crate::balancer::process::{EdgeLink, Place};
use crate::balancer::{BalancerError, EdgeConfig};

/// From the end of the link to that of the process.
const END_PATIENCE: Duration = Duration::from_millis(100);
/// A task calls nobody without its proxy: it is tried again soon.
const RESTART_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Process(#[from] BalancerError),
    #[error(transparent)]
    Link(#[from] ferrogate_edge::control::LinkError),
    #[error(transparent)]
    Vpc(#[from] ferrogate_vpc::Error),
    #[error("nft does not lead connections to names to it: {0}")]
    Rules(String),
    #[error("there is no free port for it: containers of the task listen on 64001 to 64100")]
    NoPort,
}

/// One task's.
pub(crate) struct Proxy {
    edge: EdgeConfig,
    fabric: VpcFabric,
    place: Place,
    connect: Connect,
    /// Of the task's interface.
    address: Ipv4Addr,
    /// The task is in a micro-VM, and the address its guest's.
    in_machine: bool,
    endpoints: watch::Receiver<Arc<Endpoints>>,
    /// What the process on the present link knows.
    told: Option<Endpoints>,
    link: Option<EdgeLink>,
    /// `None`: a former agent's.
    child: Option<Child>,
}

impl Proxy {
    /// Nothing stands yet. `None`: the task needs none.
    pub(crate) fn new(
        edge: &EdgeConfig,
        fabric: &VpcFabric,
        (instance, sandbox_dir): (&str, &Path),
        assignment: &TaskAssignment,
        in_machine: bool,
    ) -> Option<Self> {
        // Where it is heard is no matter of its own.
        let connect = Connect { logs: None, ..needed(assignment)?.clone() };
        Some(Self {
            endpoints: edge.plane.endpoints(),
            edge: edge.clone(),
            fabric: fabric.clone(),
            place: Place::of_task(sandbox_dir, instance, &assignment.task_id),
            connect,
            address: assignment.network.private_ip,
            in_machine,
            told: None,
            link: None,
            child: None,
        })
    }

    /// It stands and serves when this returns, taken over from a former agent or started. Namespace, interface and sandbox
    /// stand.
    pub(crate) async fn stand(&mut self) -> Result<(), ConnectError> {
        let mut link = match self.find().await {
            Some(link) => link,
            None => self.start().await?,
        };
        self.told = None;
        self.tell(&mut link).await?;
        self.link = Some(link);
        Ok(())
    }

    /// Tells it what it must know, and starts it again if it ends; until this is dropped. The process goes on then.
    pub(crate) async fn keep(mut self) {
        let mut pause = RESTART_MIN;
        loop {
            let began = Instant::now();
            let Err(error) = Box::pin(self.life()).await;
            let task = &self.place.id;
            tracing::warn!(%error, task, "a task's Service Connect proxy does not run as it should");
            if began.elapsed() > HEALTHY_LIFE {
                pause = RESTART_MIN;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESTART_MAX);
        }
    }

    async fn life(&mut self) -> Result<std::convert::Infallible, ConnectError> {
        if self.link.is_none() {
            self.stand().await?;
        }
        // Taken: after an error it is of no use.
        let mut link = self.link.take().ok_or(BalancerError::Silent("it has gone".into()))?;
        let mut followed = true;
        loop {
            tokio::select! {
                changed = self.endpoints.changed(), if followed => match changed {
                    Ok(()) => self.tell(&mut link).await?,
                    // The program ends, and its tasks go on.
                    Err(_) => followed = false,
                },
                // A task's proxy has nothing to report; the end of the link is what is waited for.
                message = link.receive() => if let Err(error) = message {
                    return Err(self.gone().await.unwrap_or(error.into()));
                },
                status = ended(&mut self.child) => return Err(self.ended(status)),
            }
        }
    }

    /// The end of a link is most often that of the process, which says more.
    async fn gone(&mut self) -> Option<ConnectError> {
        let ending = tokio::time::timeout(END_PATIENCE, ended(&mut self.child));
        let status = ending.await.ok()?;
        Some(self.ended(status))
    }

    fn ended(&mut self, status: String) -> ConnectError {
        self.child = None;
        BalancerError::Ended { status, said: self.place.said() }.into()
    }

    async fn find(&self) -> Option<EdgeLink> {
        let task = &self.place.id;
        match self.place.connect().await {
            Ok(found) => {
                let (link, _) = found?;
                tracing::info!(task, "a task's Service Connect proxy was taken over");
                Some(link)
            }
            Err(error) => {
                tracing::warn!(%error, task, "a task's Service Connect proxy is of no use and is ended");
                None
            }
        }
    }

    async fn start(&mut self) -> Result<EdgeLink, ConnectError> {
        self.place.kill().await?;
        self.child = None;
        let mut listens: Vec<SocketAddrV4> = Vec::new();
        // Before the process: one that is found has its rules.
        if self.in_machine {
            let led = rules::lead_from_machine(&self.fabric, &self.place.netns, &self.connect, self.address);
            listens.push(led.await?);
        } else {
            if !self.connect.clients.is_empty() {
                listens.push(rules::lead(&self.fabric, &self.place.netns, &self.connect).await?);
            }
            let ports: BTreeSet<u16> =
                self.connect.servers.iter().map(|server| server.ingress_port).collect();
            listens.extend(ports.into_iter().map(|port| SocketAddrV4::new(self.address, port)));
        }
        let started = self.place.start(&self.edge.program, &self.fabric, &listens);
        let (child, link, _) = Box::pin(started).await?;
        tracing::info!(task = self.place.id, pid = child.id(), "a task's Service Connect proxy was started");
        self.child = Some(child);
        Ok(link)
    }

    /// Everything, if it is not what the process knows.
    async fn tell(&mut self, link: &mut EdgeLink) -> Result<(), ConnectError> {
        let all = Arc::clone(&self.endpoints.borrow_and_update());
        let endpoints = called(&self.connect, &all);
        if let (Some(now), Some(told)) = (&endpoints, &self.told)
            && (&now.services, &now.splits) == (&told.services, &told.splits)
        {
            return Ok(());
        }
        let configuration = ConnectConfiguration {
            connect: self.connect.clone(),
            address: self.address,
            containers: if self.in_machine { self.address } else { Ipv4Addr::LOCALHOST },
            endpoints: endpoints.clone(),
        };
        link.send(&ToEdge::Connect(Box::new(configuration))).await?;
        self.told = endpoints;
        Ok(())
    }
}

/// What a task has to do with Service Connect; `None`: nothing that needs a proxy.
pub(crate) fn needed(assignment: &TaskAssignment) -> Option<&Connect> {
    assignment.connect.as_ref().filter(|connect| !connect.is_empty())
}

/// The instances of the services that a task calls, and of no others. `None`: nobody has said yet where any are.
fn called(connect: &Connect, all: &Endpoints) -> Option<Endpoints> {
    fn of<T: Clone>(connect: &Connect, all: &BTreeMap<String, T>) -> BTreeMap<String, T> {
        let ids = connect.clients.iter().map(|client| &client.service_id);
        ids.filter_map(|id| Some((id.clone(), all.get(id)?.clone()))).collect()
    }
    let (services, splits) = (of(connect, &all.services), of(connect, &all.splits));
    (all.revision > 0).then_some(Endpoints { revision: all.revision, services, splits })
}

#[cfg(test)]
mod tests {
    use ferrogate_nodeapi::{AppProtocol, ConnectClient, ConnectTimeouts, Endpoint};

    use super::*;

    #[test]
    fn a_proxy_hears_of_what_its_task_calls() {
        let endpoint = |number: u8| Endpoint {
            instance_id: number.to_string(),
            address: Ipv4Addr::new(10, 0, 0, number),
            port: 80,
            service_revision: None,
        };
        let services = [("srv-a", vec![endpoint(1)]), ("srv-b", vec![endpoint(2), endpoint(3)])];
        let services = services.map(|(id, endpoints)| (id.to_owned(), endpoints)).into();
        let all = Endpoints { revision: 7, services, splits: BTreeMap::new() };
        let client = |service_id: &str| ConnectClient {
            service_id: service_id.to_owned(),
            discovery_name: "x".into(),
            dns_name: "x".into(),
            port: 80,
            protocol: AppProtocol::Tcp,
            timeouts: ConnectTimeouts::default(),
        };
        let connect = Connect { clients: vec![client("srv-b"), client("srv-c")], ..Connect::default() };
        let called = super::called(&connect, &all).unwrap();
        assert_eq!(called.revision, 7);
        assert_eq!(
            called.services.into_iter().collect::<Vec<_>>(),
            [("srv-b".to_owned(), vec![endpoint(2), endpoint(3)])]
        );
        // Before the first word of the control plane nothing is known, which is not the same as nothing being there.
        assert_eq!(super::called(&connect, &Endpoints::default()), None);
    }
}
