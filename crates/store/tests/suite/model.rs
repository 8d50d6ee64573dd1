//! Random transactions against a model that is a map and nothing else.

use std::collections::BTreeMap;

use ferrogate_store::{Compare, Op, Txn};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Handle;

use super::Bed;

const TXNS: usize = 25;
/// Each is a store of its own.
const SHRINKS_MAX: u32 = 300;

/// Few keys and values, so that they meet.
const KEYS: [&str; 6] = ["/a", "/a/1", "/a/2", "/a/2/x", "/b", "/b/1"];
const PREFIXES: [&str; 4] = ["/", "/a", "/a/", "/b"];

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    value: Vec<u8>,
    created: u64,
    changed: u64,
    version: u64,
}

type Model = BTreeMap<String, Entry>;

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    (0..3_u8).prop_map(|n| vec![b'0' + n])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Op::Put { key, value: value.into(), lease: None }),
        2 => key().prop_map(Op::Delete),
        1 => prop::sample::select(&PREFIXES[..]).prop_map(|prefix| Op::DeletePrefix(prefix.to_owned())),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(Compare::Absent),
        key().prop_map(Compare::Present),
        (key(), 0..TXNS as u64).prop_map(|(key, revision)| Compare::CreateRevision(key, revision)),
        (key(), 0..TXNS as u64).prop_map(|(key, revision)| Compare::ModRevision(key, revision)),
        (key(), 0..4_u64).prop_map(|(key, version)| Compare::Version(key, version)),
        (key(), value()).prop_map(|(key, value)| Compare::Value(key, value.into())),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(op(), 0..5);
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compares, then, otherwise)| Txn {
        compares,
        then,
        otherwise,
    })
}

fn holds(model: &Model, compare: &Compare) -> bool {
    let entry = model.get(compare.key());
    match compare {
        Compare::Absent(_) => entry.is_none(),
        Compare::Present(_) => entry.is_some(),
        Compare::CreateRevision(_, n) => entry.map_or(*n == 0, |entry| entry.created == *n),
        Compare::ModRevision(_, n) => entry.map_or(*n == 0, |entry| entry.changed == *n),
        Compare::Version(_, n) => entry.map_or(*n == 0, |entry| entry.version == *n),
        Compare::Value(_, value) => entry.is_some_and(|entry| entry.value == **value),
    }
}

/// The model after the ops, if they have the revision; and whether they touched anything.
fn run(mut model: Model, ops: &[Op], revision: u64) -> (Model, bool) {
    let mut touched = false;
    for op in ops {
        match op {
            Op::Put { key, value, .. } => {
                let (created, version) =
                    model.get(key).map_or((revision, 0), |entry| (entry.created, entry.version));
                let entry = Entry { value: value.to_vec(), created, changed: revision, version: version + 1 };
                model.insert(key.clone(), entry);
                touched = true;
            }
            Op::Delete(key) => touched |= model.remove(key).is_some(),
            Op::DeletePrefix(prefix) => {
                let before = model.len();
                model.retain(|key, _| !key.starts_with(prefix));
                touched |= model.len() != before;
            }
        }
    }
    (model, touched)
}

pub(crate) async fn random_transactions_do_what_the_model_does<B: Bed>() {
    // From a seed of its own: the same transactions on every store, every time.
    let config = Config {
        cases: B::RANDOM_RUNS,
        max_shrink_iters: SHRINKS_MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let txns = prop::collection::vec(txn(), 1..TXNS);
    let follow = |txns: Vec<Txn>| {
        tokio::task::block_in_place(|| Handle::current().block_on(follow::<B>(&txns)));
        Ok(())
    };
    if let Err(failed) = TestRunner::new_with_rng(config, seed).run(&txns, follow) {
        panic!("{failed}");
    }
}

async fn follow<B: Bed>(txns: &[Txn]) {
    let bed = B::new().await;
    let store = bed.store();
    let mut watch = store.watch("", store.revision()).unwrap();
    let (mut model, mut told) = (Model::new(), Model::new());
    let mut revision = store.revision();
    for txn in txns {
        let succeeded = txn.compares.iter().all(|compare| holds(&model, compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let (after, touched) = run(model, ops, revision + 1);
        model = after;
        revision += u64::from(touched);
        let result = store.txn(txn.clone()).await.unwrap();
        assert_eq!((result.succeeded, result.revision), (succeeded, revision), "{txn:?} of {txns:?}");
        let found: Model = store.range("").into_iter().map(|kv| (kv.key.to_string(), entry(&kv))).collect();
        assert_eq!(found, model, "{txn:?} of {txns:?}");

        // Whoever only watches knows the same.
        while let Some(change) = watch.try_next().unwrap() {
            assert_eq!(change.revision, revision, "{txn:?} of {txns:?}");
            match change.kv {
                Some(kv) => drop(told.insert(change.key.to_string(), entry(&kv))),
                None => drop(told.remove(&*change.key)),
            }
        }
        assert_eq!(told, model, "{txn:?} of {txns:?}");
    }
    if let Some(bed) = bed.restart().await {
        let found: Model =
            bed.store().range("").into_iter().map(|kv| (kv.key.to_string(), entry(&kv))).collect();
        assert_eq!((found, bed.store().revision()), (model, revision), "after a restart: {txns:?}");
    }
}

fn entry(kv: &ferrogate_store::Kv) -> Entry {
    Entry {
        value: kv.value.to_vec(),
        created: kv.create_revision,
        changed: kv.mod_revision,
        version: kv.version,
    }
}
