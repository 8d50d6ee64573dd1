//! Keeps what nodes must run, and the names, beside the records: observe (watch), plan (pure), publish. Writes nothing.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ferrogate_nodeapi::{BalancerAssignment, Names};
use ferrogate_store::{Change, Store, Watch, WatchError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::plan::index::{Index, concerns};
use crate::state::PREFIX;

/// Changes taken into one plan: a burst costs one, and still none waits long.
const CHANGES_PER_PLAN_MAX: usize = 1024;

type List = Arc<Vec<BalancerAssignment>>;

pub(crate) struct Publisher {
    lists: Vec<(String, watch::Receiver<List>)>,
    names: watch::Receiver<Arc<Names>>,
    task: AbortHandle,
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
        let mut run = Run {
            store,
            senders,
            names: names_to,
            in_vpc,
            index: Index::default(),
            revision: 0,
            all: Vec::new(),
        };
        run.load();
        run.publish();
        Self { lists, names, task: tokio::spawn(run.run()).abort_handle() }
    }

    pub(crate) fn balancers(&self, node: &str) -> watch::Receiver<List> {
        let found = self.lists.iter().find(|(name, _)| name == node);
        found.map_or_else(|| watch::channel(List::default()).1, |(_, list)| list.clone())
    }

    pub(crate) fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.clone()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    store: Arc<dyn Store>,
    senders: Vec<watch::Sender<List>>,
    names: watch::Sender<Arc<Names>>,
    in_vpc: fn(Ipv4Addr) -> Ipv4Addr,
    index: Index,
    revision: u64,
    /// As it was published last.
    all: Vec<BalancerAssignment>,
}

impl Run {
    /// All records; changes after the revision come by the watch (some of them for the second time, to no harm).
    fn load(&mut self) {
        self.revision = self.store.revision();
        self.index = Index::default();
        for kv in self.store.range(PREFIX) {
            self.put(&kv.key, &kv.value);
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        if let Err(error) = self.index.put(key, value) {
            tracing::error!(%error, key, "a record cannot be read");
        }
    }

    fn publish(&mut self) {
        self.all = self.index.assignments(&self.all, self.revision.max(1));
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
        let names = self.index.names(self.revision, self.in_vpc);
        self.names.send_if_modified(|was| {
            let differs = was.zones != names.zones;
            if differs {
                *was = Arc::new(names);
            }
            differs
        });
    }

    async fn run(mut self) {
        loop {
            let error = match self.store.watch(PREFIX, self.revision) {
                Ok(changes) => self.follow(changes).await,
                Err(error) => error,
            };
            match error {
                WatchError::Closed => return,
                WatchError::Compacted { .. } => {
                    tracing::warn!(
                        self.revision,
                        "the watch of balancers fell behind; reading all records again"
                    );
                    self.load();
                    self.publish();
                }
            }
        }
    }

    async fn follow(&mut self, mut changes: Watch) -> WatchError {
        let mut held_back = None;
        loop {
            let first = match held_back.take() {
                Some(change) => change,
                None => match changes.next().await {
                    Ok(change) => change,
                    Err(error) => return error,
                },
            };
            let mut concerned = self.apply(&first);
            let mut taken = 1;
            let failed = loop {
                match changes.try_next() {
                    // A plan never shows half of a revision.
                    Ok(Some(change)) if taken >= CHANGES_PER_PLAN_MAX && change.revision != self.revision => {
                        held_back = Some(change);
                        break None;
                    }
                    Ok(Some(change)) => concerned |= self.apply(&change),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
                taken += 1;
            };
            if concerned {
                self.publish();
            }
            if let Some(error) = failed {
                return error;
            }
        }
    }

    /// Whether the plan may be another one now.
    fn apply(&mut self, change: &Change) -> bool {
        self.revision = change.revision;
        if !concerns(&change.key) {
            return false;
        }
        match &change.kv {
            Some(kv) => self.put(&change.key, &kv.value),
            None => self.index.delete(&change.key),
        }
        true
    }
}

/// A zone of a balancer stays on its node for as long as the nodes are the same.
fn place(one: &BalancerAssignment, nodes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (&one.load_balancer_arn, &one.availability_zone).hash(&mut hasher);
    usize::try_from(hasher.finish() % nodes.max(1) as u64).unwrap_or(0)
}
