//! Leases.

use std::convert::Infallible;
use std::time::Duration;

use ferrogate_store::{LEASE_TTL_MIN, StoreError, Txn, update_json};

use super::{Bed, put};

/// As long as a test could ever take.
const LONG: Duration = Duration::from_secs(3600);

pub(crate) async fn a_lease_that_is_not_kept_alive_takes_its_keys_with_it<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let lease = store.lease_grant(LEASE_TTL_MIN).await.unwrap();
    let kept = store.lease_grant(LONG).await.unwrap();
    assert_eq!(store.lease_keep_alive(kept).await, Ok(LONG));
    let txn = Txn::new()
        .put_leased("/a", *b"1", lease)
        .put_leased("/b", *b"1", lease)
        .put_leased("/c", *b"1", kept);
    let put = store.txn(txn).await.unwrap().revision;
    assert_eq!(store.get("/a").unwrap().lease, Some(lease));

    let mut watch = store.watch("/", put).unwrap();
    let (first, second) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!((first.kv, second.kv), (None, None));
    assert_eq!(first.revision, second.revision, "all of its keys go as one revision");
    assert_eq!((store.get("/a"), store.get("/b")), (None, None));
    assert_eq!(store.get("/c").unwrap().lease, Some(kept));
    assert_eq!(store.lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound { lease }));
    let late = store.txn(Txn::new().put("/d", *b"1").put_leased("/a", *b"1", lease)).await;
    assert_eq!(late, Err(StoreError::LeaseNotFound { lease }));
    assert_eq!(store.get("/d"), None);
}

pub(crate) async fn a_revoked_lease_is_gone_with_its_keys_at_once<B: Bed>() {
    let bed = B::new().await;
    let (lease, other) =
        (bed.store().lease_grant(LONG).await.unwrap(), bed.store().lease_grant(LONG).await.unwrap());
    let txn = Txn::new().put_leased("/a", *b"1", lease).put_leased("/b", *b"1", other);
    bed.store().txn(txn).await.unwrap();
    // A lease is as durable as its keys.
    let bed = match bed.restart().await {
        Some(bed) => bed,
        None => return,
    };
    let store = bed.store();
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(store.get("/a"), None);
    assert_eq!(store.get("/b").unwrap().lease, Some(other));
    assert_eq!(store.lease_revoke(lease).await, Err(StoreError::LeaseNotFound { lease }));
    let next = store.lease_grant(LONG).await.unwrap();
    assert!(next != lease && next != other, "ids are not used again");
    let refused = store.lease_grant(Duration::ZERO).await;
    assert_eq!(refused, Err(StoreError::LeaseTtl { ttl: Duration::ZERO }));

    let Some(bed) = bed.restart().await else { return };
    assert_eq!(bed.store().lease_keep_alive(lease).await, Err(StoreError::LeaseNotFound { lease }));
    assert_eq!(bed.store().lease_keep_alive(other).await, Ok(LONG));
}

pub(crate) async fn a_key_put_without_its_lease_outlives_it<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let lease = store.lease_grant(LONG).await.unwrap();
    store.txn(Txn::new().put_leased("/a", *b"1", lease).put_leased("/b", *b"1", lease)).await.unwrap();
    put(store, "/a", "2").await;
    update_json(&**store, "/b", |n: Option<u64>| Ok::<_, Infallible>(n.map(|n| n + 1))).await.unwrap();
    assert_eq!(store.get("/b").unwrap().lease, Some(lease), "an update keeps it");
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(store.get("/a").unwrap().lease, None);
    assert_eq!(store.get("/b"), None);
}
