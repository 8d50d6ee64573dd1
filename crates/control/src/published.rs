//! One value derived from records, for all who want it.

use std::sync::Arc;

use ferrogate_store::Store;
use tokio::sync::watch;

use crate::{Follower, View};

/// Records, arranged for a value that is derived from all of them. Pure.
pub trait Index: Default + Send + 'static {
    type Value: Default + Send + Sync + 'static;

    /// See [`View::concerns`].
    fn concerns(key: &str) -> bool;

    /// See [`View::put`].
    ///
    /// # Errors
    /// The record cannot be read, and nothing is changed.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error>;

    /// See [`View::delete`].
    fn delete(&mut self, key: &str);

    /// The value as of that revision.
    fn plan(&self, revision: u64) -> Self::Value;

    /// Whether those who have `before` are told of `after`.
    fn is_news(_before: &Self::Value, _after: &Self::Value) -> bool {
        true
    }
}

/// The value of an [`Index`], kept current until it is dropped.
pub struct Published<I: Index> {
    value: watch::Receiver<Arc<I::Value>>,
    _follower: Follower,
}

impl<I: Index> Published<I> {
    /// As [`Follower::start`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(store: Arc<dyn Store>, prefix: &'static str, what: &'static str) -> Self {
        let (to, value) = watch::channel(Arc::default());
        let view = Publisher { index: I::default(), to };
        Self { value, _follower: Follower::start(store, prefix, what, view) }
    }

    /// Has the value at once, and each that follows within milliseconds of its commit.
    pub fn subscribe(&self) -> watch::Receiver<Arc<I::Value>> {
        self.value.clone()
    }

    /// The value now.
    pub fn current(&self) -> Arc<I::Value> {
        Arc::clone(&self.value.borrow())
    }
}

struct Publisher<I: Index> {
    index: I,
    to: watch::Sender<Arc<I::Value>>,
}

impl<I: Index> View for Publisher<I> {
    fn concerns(&self, key: &str) -> bool {
        I::concerns(key)
    }

    fn clear(&mut self) {
        self.index = I::default();
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        self.index.put(key, value)
    }

    fn delete(&mut self, key: &str) {
        self.index.delete(key);
    }

    fn publish(&mut self, revision: u64) {
        let value = self.index.plan(revision);
        self.to.send_if_modified(|before| {
            let is_news = I::is_news(before, &value);
            if is_news {
                *before = Arc::new(value);
            }
            is_news
        });
    }
}
