//! What every store must do. One suite; each implementation is a [`Bed`] under it.

mod suite;

use std::sync::Arc;

use ferrogate_store::{MemoryStore, RedbStore, Store};
use suite::Bed;
use tempfile::TempDir;

struct Memory(Arc<dyn Store>);

#[async_trait::async_trait]
impl Bed for Memory {
    const RANDOM_RUNS: u32 = 128;

    async fn new() -> Self {
        Self(Arc::new(MemoryStore::new()))
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.0
    }

    async fn restart(self) -> Option<Self> {
        None
    }
}

struct Redb {
    store: Arc<dyn Store>,
    folder: TempDir,
}

impl Redb {
    fn on(folder: TempDir) -> Self {
        let store = Arc::new(RedbStore::open(&folder.path().join("store.redb")).unwrap());
        Self { store, folder }
    }
}

#[async_trait::async_trait]
impl Bed for Redb {
    // Each transaction waits for the disk.
    const RANDOM_RUNS: u32 = 16;

    async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn restart(self) -> Option<Self> {
        assert_eq!(Arc::strong_count(&self.store), 1, "a test that restarts the store must not hold it");
        drop(self.store);
        Some(Self::on(self.folder))
    }
}

macro_rules! conformance {
    ($module:ident, $bed:ty; $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::suite::$test::<$bed>().await;
                }
            )*
        }
    };
}

macro_rules! every_test_on {
    ($($module:ident: $bed:ty),* $(,)?) => {
        $(
            conformance! { $module, $bed;
                a_change_makes_a_revision_and_a_failed_compare_none,
                each_compare_holds_exactly_when_it_should,
                the_other_list_is_done_when_a_compare_fails,
                a_prefix_is_deleted_as_one_revision,
                what_exceeds_a_limit_is_refused_by_name,
                a_value_that_is_no_text_is_refused_by_its_key,
                ranges_are_sorted_paged_and_of_one_revision,
                random_transactions_do_what_the_model_does,
                a_watch_gives_every_revision_once_and_in_order_from_wherever_it_begins,
                a_watch_started_at_a_listing_misses_nothing,
                a_watch_begun_anywhere_gives_the_rest_exactly,
                a_watch_ends_with_the_store,
                a_slow_watch_is_told_that_it_lags_and_can_begin_again,
                concurrent_updates_are_all_there,
                an_update_that_is_refused_writes_nothing,
                an_unreadable_record_is_not_overwritten,
                a_lease_that_is_not_kept_alive_takes_its_keys_with_it,
                a_revoked_lease_is_gone_with_its_keys_at_once,
                a_key_put_without_its_lease_outlives_it,
                everything_is_there_after_a_restart,
            }
        )*
    };
}

every_test_on! { memory: super::Memory, redb: super::Redb }
