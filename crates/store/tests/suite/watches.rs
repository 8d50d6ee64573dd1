//! Watches.

use std::sync::Arc;

use ferrogate_store::{Change, Txn, VALUE_BYTES_MAX, Watch, WatchError};

use super::{Bed, put};

/// The revisions of the next changes.
async fn next(watch: &mut Watch, count: usize) -> Vec<u64> {
    let mut revisions = Vec::with_capacity(count);
    for _ in 0..count {
        revisions.push(watch.next().await.unwrap().revision);
    }
    revisions
}

pub(crate) async fn a_watch_gives_every_revision_once_and_in_order_from_wherever_it_begins<B: Bed>() {
    let mut bed = B::new().await;
    let mut written = Vec::new();
    for n in 0..10 {
        written.push(put(bed.store(), &format!("/w/{}", n % 3), &n.to_string()).await);
        put(bed.store(), "/elsewhere", "1").await;
    }
    // Half of it before a restart, where there is one.
    let restarted = bed.restart().await;
    let survives = restarted.is_some();
    bed = match restarted {
        Some(bed) => bed,
        None => B::new().await,
    };
    if !survives {
        written.clear();
    }
    let store = bed.store();
    let mut watches = vec![(0, store.watch("/w/", 0).unwrap())];
    for from in [3, 9] {
        if let Some(after) = written.get(from) {
            watches.push((from + 1, store.watch("/w/", *after).unwrap()));
        }
    }
    let writers: Vec<_> = (0..4)
        .map(|task| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for n in 0..10 {
                    revisions.push(put(&store, &format!("/w/{task}"), &n.to_string()).await);
                }
                revisions
            })
        })
        .collect();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort_unstable();
    for (from, mut watch) in watches {
        let expected = &written[from..];
        assert_eq!(next(&mut watch, expected.len()).await, expected, "from {from}");
        assert_eq!(watch.try_next(), Ok(None));
    }
}

pub(crate) async fn a_watch_started_at_a_listing_misses_nothing<B: Bed>() {
    const CHANGES: u64 = 60;
    let bed = B::new().await;
    let store = Arc::clone(bed.store());
    let writer = tokio::spawn(async move {
        for n in 1..=CHANGES {
            put(&store, "/n", &n.to_string()).await;
        }
    });
    let mut known = 0;
    while known < CHANGES {
        let listing = bed.store().range("/n");
        let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
        known = listing.first().map_or(0, |kv| number(&kv.value));
        let mut watch = bed.store().watch("/n", listing.revision).unwrap();
        for _ in 0..3 {
            if known < CHANGES {
                let change = watch.next().await.unwrap();
                known += 1;
                assert_eq!(number(&change.kv.unwrap().value), known);
            }
        }
    }
    writer.await.unwrap();
}

/// What the writers of [`a_watch_begun_anywhere_gives_the_rest_exactly`] end with.
const LAST: &str = "/w/last";

/// From every revision there is, begun before, between and after the changes, also those of an earlier run: the same
/// changes, none missing, none twice, none out of order.
pub(crate) async fn a_watch_begun_anywhere_gives_the_rest_exactly<B: Bed>() {
    let bed = B::new().await;
    let (mut acknowledged, watched) = write_and_watch(&bed).await;
    let all = rest(&mut bed.store().watch("/w/", 0).unwrap());
    let mut revisions: Vec<u64> = all.iter().map(|change| change.revision).collect();
    assert!(revisions.is_sorted());
    revisions.dedup();
    acknowledged.sort_unstable();
    assert_eq!(revisions, acknowledged, "what was acknowledged, each with one revision of its own");
    for (after, changes) in watched {
        assert_eq!(changes, since(&all, after), "begun after {after}, while it was written");
    }
    let newest = bed.store().revision();
    let bed = match bed.restart().await {
        Some(bed) => bed,
        None => return assert_each_rest(&B::new().await, &[]),
    };
    assert_each_rest(&bed, &all);
    // What comes now continues what was there.
    let mut watch = bed.store().watch("/w/", newest - 1).unwrap();
    let next = put(bed.store(), "/w/0", "1").await;
    let given: Vec<u64> = rest(&mut watch).iter().map(|change| change.revision).collect();
    assert_eq!(given, [newest, next]);
}

fn assert_each_rest<B: Bed>(bed: &B, all: &[Change]) {
    for after in 0..=bed.store().revision() {
        let given = rest(&mut bed.store().watch("/w/", after).unwrap());
        assert_eq!(given, since(all, after), "after {after}");
    }
}

fn since(all: &[Change], after: u64) -> &[Change] {
    &all[all.partition_point(|change| change.revision <= after)..]
}

/// What is there without waiting.
fn rest(watch: &mut Watch) -> Vec<Change> {
    std::iter::from_fn(|| watch.try_next().unwrap()).collect()
}

/// The revisions that were acknowledged, and what watches saw that began at some revision while they were written.
async fn write_and_watch<B: Bed>(bed: &B) -> (Vec<u64>, Vec<(u64, Vec<Change>)>) {
    const WRITERS: usize = 4;
    const TXNS: usize = 40;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(bed.store());
        writers.spawn(async move {
            let mut revisions = Vec::with_capacity(TXNS);
            for n in 0..TXNS {
                let (own, value) = (format!("/w/{writer}"), n.to_string().into_bytes());
                let txn = Txn::new().put(format!("{own}/{n}"), value.clone()).put("/x", value.clone());
                let txn = if n % 5 == 4 { txn.delete_prefix(format!("{own}/")) } else { txn };
                revisions.push(store.txn(txn.put("/w/shared", value)).await.unwrap().revision);
            }
            revisions
        });
    }
    let (mut watchers, mut acknowledged) = (tokio::task::JoinSet::new(), Vec::new());
    while !writers.is_empty() {
        let now = bed.store().revision();
        for after in [0, now / 2, now] {
            let mut watch = bed.store().watch("/w/", after).unwrap();
            watchers.spawn(async move {
                let mut changes = Vec::new();
                while changes.last().is_none_or(|change: &Change| &*change.key != LAST) {
                    changes.push(watch.next().await.unwrap());
                }
                (after, changes)
            });
        }
        // After some more was written, or some writer is done.
        let mut more = bed.store().watch("/", now).unwrap();
        tokio::select! {
            change = more.next() => drop(change.unwrap()),
            Some(done) = writers.join_next() => acknowledged.extend(done.unwrap()),
        }
    }
    acknowledged.push(put(bed.store(), LAST, "1").await);
    (acknowledged, watchers.join_all().await)
}

pub(crate) async fn a_watch_ends_with_the_store<B: Bed>() {
    let bed = B::new().await;
    let before = bed.store().revision();
    let mut watch = bed.store().watch("/", before).unwrap();
    let revision = put(bed.store(), "/a", "1").await;
    drop(bed);
    assert_eq!(next(&mut watch, 1).await, [revision], "what was committed is given first");
    assert_eq!(watch.next().await, Err(WatchError::Closed));
    assert_eq!(watch.try_next(), Err(WatchError::Closed));
}

pub(crate) async fn a_slow_watch_is_told_that_it_lags_and_can_begin_again<B: Bed>() {
    let bed = B::new().await;
    let store = bed.store();
    let before = put(store, "/a", "1").await;
    let mut slow = store.watch("/", before).unwrap();
    // More than the log holds.
    for n in 0..2 * ferrogate_store::LOG_BYTES_KEPT / VALUE_BYTES_MAX {
        store.txn(Txn::new().put(format!("/{}", n % 4), vec![b'1'; VALUE_BYTES_MAX])).await.unwrap();
    }
    assert_compacted(slow.next().await.map(drop), before);
    assert_compacted(store.watch("/", before).map(drop), before);
    let listing = store.range("/");
    let mut again = store.watch("/", listing.revision).unwrap();
    let revision = put(store, "/a", "2").await;
    assert_eq!(next(&mut again, 1).await, [revision]);

    let Some(bed) = bed.restart().await else { return };
    assert_compacted(bed.store().watch("/", before).map(drop), before);
    let mut last = bed.store().watch("/", listing.revision).unwrap();
    assert_eq!(next(&mut last, 1).await, [revision]);
}

fn assert_compacted(result: Result<(), WatchError>, after: u64) {
    match result {
        Err(WatchError::Compacted { after: said, oldest }) => assert!(said == after && oldest > after + 1),
        other => panic!("{other:?} instead of Compacted"),
    }
}
