//! The suite. Nothing here knows which store it runs on.

mod leases;
mod model;
mod watches;

use std::convert::Infallible;
use std::sync::Arc;

use ferrogate_store::{
    KEY_BYTES_MAX, Kv, Op, Store, StoreError, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, UpdateError, VALUE_BYTES_MAX,
    get_json, range_json, update_json,
};

pub(crate) use self::leases::*;
pub(crate) use self::model::random_transactions_do_what_the_model_does;
pub(crate) use self::watches::*;

/// A store to test, and its restart.
#[async_trait::async_trait]
pub(crate) trait Bed: Sized + Send + Sync {
    /// Random sequences of transactions that are tried.
    const RANDOM_RUNS: u32;

    /// An empty store.
    async fn new() -> Self;

    fn store(&self) -> &Arc<dyn Store>;

    /// The same store, restarted; `None`: nothing of it survives that. Only called when nobody else holds it.
    async fn restart(self) -> Option<Self>;
}

/// Puts one key, and gives the revision.
async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> u64 {
    store.txn(Txn::new().put(key, value.as_bytes())).await.unwrap().revision
}

fn keys(kvs: &[Kv]) -> Vec<&str> {
    kvs.iter().map(|kv| &*kv.key).collect()
}

pub(crate) async fn a_change_makes_a_revision_and_a_failed_compare_none<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let first = put(store, "/a", "1").await;
    let second = put(store, "/a", "2").await;
    assert!(second > first);
    assert_eq!(store.revision(), second, "what was acknowledged is read");
    let kv = store.get("/a").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, &*kv.value), (first, second, 2, &b"2"[..]));

    let refused = store.txn(Txn::new().when_absent("/a").put("/a", *b"3")).await.unwrap();
    assert!(!refused.succeeded);
    let nothing = store.txn(Txn::new().delete("/none")).await.unwrap();
    assert!(nothing.succeeded);
    assert_eq!((refused.revision, nothing.revision, store.revision()), (second, second, second));

    let deleted = store.txn(Txn::new().delete("/a")).await.unwrap();
    assert!(deleted.revision > second);
    assert_eq!(store.get("/a"), None);
    let again = put(store, "/a", "4").await;
    let kv = store.get("/a").unwrap();
    assert_eq!((kv.create_revision, kv.version), (again, 1), "a key that is made again begins anew");
}

pub(crate) async fn each_compare_holds_exactly_when_it_should<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let made = put(store, "/a", "1").await;
    let changed = put(store, "/a", "2").await;
    let holds = [
        Txn::new().when_present("/a"),
        Txn::new().when_absent("/none"),
        Txn::new().when_revision("/a", changed),
        Txn::new().when_revision("/none", 0),
        Txn::new().when_created("/a", made),
        Txn::new().when_created("/none", 0),
        Txn::new().when_version("/a", 2),
        Txn::new().when_version("/none", 0),
        Txn::new().when_value("/a", *b"2"),
        Txn::new().when_present("/a").when_absent("/none").when_value("/a", *b"2"),
    ];
    for txn in holds {
        assert!(store.txn(txn.clone()).await.unwrap().succeeded, "{txn:?}");
    }
    let fails = [
        Txn::new().when_present("/none"),
        Txn::new().when_absent("/a"),
        Txn::new().when_revision("/a", made),
        Txn::new().when_revision("/a", 0),
        Txn::new().when_revision("/none", made),
        Txn::new().when_created("/a", changed),
        Txn::new().when_version("/a", 1),
        Txn::new().when_value("/a", *b"1"),
        Txn::new().when_value("/none", *b""),
        Txn::new().when_present("/a").when_absent("/a"),
    ];
    for txn in fails {
        assert!(!store.txn(txn.clone()).await.unwrap().succeeded, "{txn:?}");
    }
}

pub(crate) async fn the_other_list_is_done_when_a_compare_fails<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let other = Op::Put { key: "/else".into(), value: (*b"1").into(), lease: None };
    let txn = Txn::new().when_present("/a").put("/then", *b"1").or_else([other]);
    let result = store.txn(txn).await.unwrap();
    assert!(!result.succeeded);
    assert_eq!(store.get("/else").unwrap().mod_revision, result.revision);
    assert_eq!(store.get("/then"), None);
}

pub(crate) async fn a_prefix_is_deleted_as_one_revision<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    for key in ["/a", "/a/1", "/a/2", "/b", "/a0"] {
        put(store, key, "1").await;
    }
    let before = store.revision();
    let txn = Txn::new().put("/a/3", *b"1").delete_prefix("/a/").put("/a/4", *b"1");
    let deleted = store.txn(txn).await.unwrap().revision;
    assert_eq!(keys(&store.range("/")), ["/a", "/a/4", "/a0", "/b"], "earlier ops are seen, later ones stay");
    let mut watch = store.watch("/a/", before).unwrap();
    let mut gone = Vec::new();
    while let Some(change) = watch.try_next().unwrap() {
        assert_eq!(change.revision, deleted);
        if change.kv.is_none() {
            gone.push(change.key.to_string());
        }
    }
    gone.retain(|key| key != "/a/3");
    gone.sort();
    assert_eq!(gone, ["/a/1", "/a/2"]);
}

pub(crate) async fn what_exceeds_a_limit_is_refused_by_name<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let too_large = |what, found, max| Err(StoreError::TooLarge { what, found, max });
    let key = "k".repeat(KEY_BYTES_MAX);
    assert!(store.txn(Txn::new().put(&*key, vec![0; VALUE_BYTES_MAX])).await.unwrap().succeeded);
    let revision = store.revision();

    let txn = Txn::new().put(format!("{key}k"), *b"");
    assert_eq!(store.txn(txn).await, too_large("a key", KEY_BYTES_MAX + 1, KEY_BYTES_MAX));
    let txn = Txn::new().when_absent(format!("{key}k"));
    assert_eq!(store.txn(txn).await, too_large("a key", KEY_BYTES_MAX + 1, KEY_BYTES_MAX));
    let txn = Txn::new().put("/a", vec![0; VALUE_BYTES_MAX + 1]);
    assert_eq!(store.txn(txn).await, too_large("a value", VALUE_BYTES_MAX + 1, VALUE_BYTES_MAX));
    let half = vec![0; TXN_BYTES_MAX / 2];
    let txn = Txn::new().put("/a", half.clone()).put("/b", half.clone());
    assert_eq!(store.txn(txn).await, too_large("a transaction", TXN_BYTES_MAX + 4, TXN_BYTES_MAX));
    let txn = (0..=TXN_OPS_MAX).fold(Txn::new(), |txn, n| txn.delete(format!("/{n}")));
    assert_eq!(store.txn(txn).await, too_large("a transaction's list", TXN_OPS_MAX + 1, TXN_OPS_MAX));
    for txn in [
        Txn::new().put("", *b""),
        Txn::new().delete(""),
        Txn::new().delete_prefix(""),
        Txn::new().when_absent(""),
    ] {
        assert!(matches!(store.txn(txn).await, Err(StoreError::EmptyKey { .. })));
    }
    assert_eq!(store.revision(), revision);
}

pub(crate) async fn a_value_that_is_no_text_is_refused_by_its_key<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let revision = put(store, "/a", "1").await;
    let not_text = || StoreError::NotText { key: "/b".into(), valid_up_to: 1 };
    let other = Op::Put { key: "/b".into(), value: [b'"', 0xff, b'"'].into(), lease: None };
    for txn in [
        Txn::new().put("/a", *b"2").put("/b", [b'"', 0xff, b'"']),
        // Cut in the middle of a character.
        Txn::new().put("/a", *b"2").put("/b", [b'"', 0xc3]),
        // Whether it would be done or not.
        Txn::new().put("/a", *b"2").or_else([other]),
    ] {
        let error = store.txn(txn).await.unwrap_err();
        assert_eq!(error, not_text());
        assert!(error.to_string().contains("/b"), "{error}");
    }
    assert_eq!((store.revision(), store.range("").len()), (revision, 1), "nothing of it is kept");
}

pub(crate) async fn ranges_are_sorted_paged_and_of_one_revision<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    for key in ["/b/2", "/a", "/b/1", "/c", "/b/3", "/b", "/b\u{e9}"] {
        put(store, key, "1").await;
    }
    let all = store.range("/b/");
    assert_eq!((keys(&all), all.revision, all.more), (vec!["/b/1", "/b/2", "/b/3"], store.revision(), false));

    let first = store.range_from("/b/", None, 2);
    assert_eq!((keys(&first), first.more), (vec!["/b/1", "/b/2"], true));
    let rest = store.range_from("/b/", Some("/b/2"), 2);
    assert_eq!((keys(&rest), rest.more), (vec!["/b/3"], false));
    let exact = store.range_from("/b/", Some("/b/1"), 2);
    assert_eq!((exact.len(), exact.more), (2, false));

    assert_eq!(store.range_from("/b/", Some("/a"), 9).len(), 3, "a place before the prefix is its beginning");
    assert_eq!(store.range_from("/b/", Some("/b/20"), 9).len(), 1, "a place need not be a key");
    assert!(store.range_from("/b/", Some("/c"), 9).is_empty());
    assert!(store.range("/d").is_empty());
    assert_eq!(store.range("").len(), 7);
}

pub(crate) async fn concurrent_updates_are_all_there<B: Bed>() {
    const TASKS: usize = 4;
    const UPDATES: u64 = 15;
    let bed = B::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let store = Arc::clone(bed.store());
        tasks.spawn(async move {
            for _ in 0..UPDATES {
                let add = |n: Option<u64>| Ok::<_, Infallible>(Some(n.unwrap_or(0) + 1));
                update_json(&*store, "/n", add).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let n = get_json::<u64>(&**bed.store(), "/n").unwrap();
    assert_eq!(n.record, TASKS as u64 * UPDATES);
    let none = update_json(&**bed.store(), "/n", |_| Ok::<_, Infallible>(None::<u64>)).await.unwrap();
    assert_eq!((none, bed.store().get("/n")), (None, None));
}

pub(crate) async fn an_update_that_is_refused_writes_nothing<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let revision = put(store, "/n", "1").await;
    let refused = update_json(&**store, "/n", |n: Option<u64>| Err(n)).await;
    assert!(matches!(refused, Err(UpdateError::Refused(Some(1)))));
    assert_eq!(store.revision(), revision);
}

pub(crate) async fn an_unreadable_record_is_not_overwritten<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    put(store, "/n/1", "1").await;
    put(store, "/n/2", "{").await;
    let update = update_json(&**store, "/n/2", |_: Option<u64>| Ok::<_, Infallible>(Some(2))).await;
    assert!(matches!(update, Err(UpdateError::Store(StoreError::Unreadable { .. }))), "{update:?}");
    assert_eq!(get_json::<u64>(&**store, "/n/2"), None);
    assert_eq!(range_json::<u64>(&**store, "/n/").len(), 1);
    assert_eq!(*store.get("/n/2").unwrap().value, *b"{");
}

pub(crate) async fn everything_is_there_after_a_restart<B: Bed>() {
    let bed = B::new().await;
    let first = put(bed.store(), "/a", "1").await;
    // Text is more than what is printed.
    bed.store().txn(Txn::new().put("/b", "\0\u{10ffff}".as_bytes()).put("/a", *b"2")).await.unwrap();
    bed.store().txn(Txn::new().delete("/a").put("/c", *b"")).await.unwrap();
    let before = bed.store().range("");
    let Some(bed) = bed.restart().await else { return };
    assert_eq!(bed.store().range(""), before);
    assert_eq!(bed.store().revision(), before.revision);
    let mut watch = bed.store().watch("", first).unwrap();
    let mut kvs = Vec::new();
    while let Some(change) = watch.try_next().unwrap() {
        kvs.push((change.revision - first, change.key.to_string(), change.kv.map(|kv| kv.value.to_vec())));
    }
    kvs.sort();
    let expected = [
        (1, "/a", Some(&b"2"[..])),
        (1, "/b", Some("\0\u{10ffff}".as_bytes())),
        (2, "/a", None),
        (2, "/c", Some(b"")),
    ];
    assert_eq!(kvs, expected.map(|(at, key, value)| (at, key.to_owned(), value.map(<[u8]>::to_vec))));
    assert!(put(bed.store(), "/d", "1").await > before.revision, "revisions go on");
}
