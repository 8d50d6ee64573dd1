//! Keeps what nodes must run, and the names, beside the records: observe (watch), plan (pure), publish. Writes nothing.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ferrogate_control::{Follower, View};
use ferrogate_nodeapi::{BalancerAssignment, Names};
use ferrogate_store::Store;
use tokio::sync::watch;

use crate::plan::index::{Index, concerns};
use crate::state::PREFIX;

type List = Arc<Vec<BalancerAssignment>>;

pub(crate) struct Publisher {
    lists: Vec<(String, watch::Receiver<List>)>,
    names: watch::Receiver<Arc<Names>>,
    _follower: Follower,
}

impl Publisher {
    pub(crate) fn start(store: Arc<dyn Store>, nodes: Vec<String>, in_vpc: fn(Ipv4Addr) -> Ipv4Addr) -> Self {
        let (names_to, names) = watch::channel(Arc::default());
        let (senders, lists) = nodes
            .into_iter()
            .map(|node| {
                let (sender, receiver) = watch::channel(List::default());
                (sender, (node, receiver))
            })
            .unzip();
        let view = Published { senders, names: names_to, in_vpc, index: Index::default(), all: Vec::new() };
        Self { lists, names, _follower: Follower::start(store, PREFIX, "load balancers", view) }
    }

    pub(crate) fn balancers(&self, node: &str) -> watch::Receiver<List> {
        let found = self.lists.iter().find(|(name, _)| name == node);
        found.map_or_else(|| watch::channel(List::default()).1, |(_, list)| list.clone())
    }

    pub(crate) fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.clone()
    }
}

struct Published {
    senders: Vec<watch::Sender<List>>,
    names: watch::Sender<Arc<Names>>,
    in_vpc: fn(Ipv4Addr) -> Ipv4Addr,
    index: Index,
    /// As it was published last.
    all: Vec<BalancerAssignment>,
}

impl View for Published {
    fn concerns(&self, key: &str) -> bool {
        concerns(key)
    }

    fn clear(&mut self) {
        self.index = Index::default();
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        self.index.put(key, value)
    }

    fn delete(&mut self, key: &str) {
        self.index.delete(key);
    }

    fn publish(&mut self, revision: u64) {
        self.all = self.index.assignments(&self.all, revision.max(1));
        for (n, sender) in self.senders.iter().enumerate() {
            let of_node = |one: &&BalancerAssignment| place(one, self.senders.len()) == n;
            let list: Vec<_> = self.all.iter().filter(of_node).cloned().collect();
            sender.send_if_modified(|was| {
                let differs = **was != list;
                if differs {
                    *was = Arc::new(list);
                }
                differs
            });
        }
        let names = self.index.names(revision, self.in_vpc);
        self.names.send_if_modified(|was| {
            let differs = was.zones != names.zones;
            if differs {
                *was = Arc::new(names);
            }
            differs
        });
    }
}

/// A zone of a balancer stays on its node for as long as the nodes are the same.
fn place(one: &BalancerAssignment, nodes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (&one.load_balancer_arn, &one.availability_zone).hash(&mut hasher);
    usize::try_from(hasher.finish() % nodes.max(1) as u64).unwrap_or(0)
}
