//! The files by themselves, with segments and blocks small enough to have many of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::pattern::Pattern;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn put(segments: &Segments, stream: &str, ingestion: i64, events: &[(i64, String)]) -> u64 {
    let stream = segments.stream("group", stream).await.unwrap();
    let frame = encode(ingestion, events.iter().map(|(at, message)| (*at, message.as_str())));
    segments.append(&stream, frame).await.unwrap()
}

async fn everything(segments: &Segments, stream: &str) -> Vec<(u64, String)> {
    let streams = vec![(0, segments.stream("group", stream).await.unwrap())];
    let page = segments.read(Query { streams, ..query(Direction::Forward) }).await.unwrap();
    assert_eq!(page.more, None);
    page.events.into_iter().map(|found| (found.key.seq, found.message)).collect()
}

fn query(direction: Direction) -> Query {
    Query {
        streams: Vec::new(),
        start: i64::MIN,
        end: i64::MAX,
        cursor: if direction == Direction::Forward { Key::MIN } else { Key::MAX },
        direction,
        count_max: usize::MAX,
        bytes_max: usize::MAX,
        scan_bytes_max: u64::MAX,
        pattern: Pattern::Everything,
    }
}

fn segment_files(dir: &Path, stream: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("group").join(stream)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pages, however they are cut, are the naive answer.
    #[test]
    fn pages_are_the_naive_answer(
        batches in proptest::collection::vec(
            (0..4_usize, 0..40_i64, proptest::collection::vec((0..6_i64, 0..60_usize), 1..6)), 1..40),
        start in -5..60_i64,
        length in 0..80_i64,
        count_max in 1..30_usize,
        bytes_max in 1..400_usize,
        scan_bytes_max in prop_oneof![Just(u64::MAX), 0..2_000_u64],
        backward in any::<bool>(),
        with_b in any::<bool>(),
        reopen in any::<bool>(),
    ) {
        let end = start + length;
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let mut segments = Segments::open(dir.path().to_owned()).unwrap();
            let mut next = [0_u64; 4];
            let mut all: BTreeMap<Key, (usize, String)> = BTreeMap::new();
            for (stream, base, events) in &batches {
                let mut events: Vec<(i64, String)> = events
                    .iter()
                    .map(|(at, length)| (base + at, if length % 3 == 0 { "a".repeat(*length) } else { "b".repeat(*length) }))
                    .collect();
                events.sort_by_key(|(at, _)| *at);
                for (timestamp, message) in &events {
                    let key = Key { timestamp: *timestamp, stream: *stream as u64, seq: next[*stream] };
                    all.insert(key, (*stream, message.clone()));
                    next[*stream] += 1;
                }
                prop_assert_eq!(put(&segments, &stream.to_string(), 1, &events).await, next[*stream]);
            }
            if reopen {
                drop(segments);
                segments = Segments::open(dir.path().to_owned()).unwrap();
            }
            let mut wanted: Vec<(Key, String)> = all
                .into_iter()
                .filter(|(key, (_, message))| start <= key.timestamp && key.timestamp <= end && (!with_b || message.contains('b')))
                .map(|(key, (_, message))| (key, message))
                .collect();
            if backward {
                wanted.reverse();
            }
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            let mut cursor = query(direction).cursor;
            let mut found = Vec::new();
            loop {
                let mut streams = Vec::new();
                for stream in 0..4 {
                    streams.push((stream, segments.stream("group", &stream.to_string()).await.unwrap()));
                }
                let pattern = Pattern::parse(if with_b { "b" } else { "" }).unwrap();
                let query = Query { streams, start, end, cursor, count_max, bytes_max, scan_bytes_max, pattern, ..query(direction) };
                let page = segments.read(query).await.unwrap();
                prop_assert!(page.events.len() <= count_max);
                found.extend(page.events.into_iter().map(|found| (found.key, found.message)));
                let Some(more) = page.more else { break };
                prop_assert!(if backward { more < cursor } else { more > cursor }, "a page that is no further");
                cursor = more;
            }
            prop_assert_eq!(found, wanted);
            Ok(())
        })?;
    }

    /// Wherever a crash cuts the last file, the puts before stay and puts after follow them.
    #[test]
    fn a_torn_tail_is_cut(cut in 0..700_usize, garbage in proptest::collection::vec(any::<u8>(), 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let segments = Segments::open(dir.path().to_owned()).unwrap();
            for n in 0..12 {
                put(&segments, "s", n, &[(n, format!("{n:02} {}", "x".repeat(60))), (n, "second".into())]).await;
            }
            drop(segments);
            let path = segment_files(dir.path(), "s").pop().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(cut.min(bytes.len()));
            bytes.extend(garbage);
            fs::write(&path, bytes).unwrap();
            let segments = Segments::open(dir.path().to_owned()).unwrap();
            let found = everything(&segments, "s").await;
            prop_assert_eq!(found.len() % 2, 0, "a put is there as a whole or not at all");
            for (place, (seq, _)) in found.iter().enumerate() {
                prop_assert_eq!(*seq, place as u64);
            }
            let next = put(&segments, "s", 99, &[(99, "after".into())]).await;
            prop_assert_eq!(next as usize, found.len() + 1);
            drop(segments);
            let segments = Segments::open(dir.path().to_owned()).unwrap();
            prop_assert_eq!(everything(&segments, "s").await.len(), found.len() + 1);
            Ok(())
        })?;
    }
}

#[test]
fn segments_are_sealed_and_expire() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let segments = Segments::open(dir.path().to_owned()).unwrap();
        for n in 0..40 {
            put(&segments, "s", n, &[(n, "x".repeat(100))]).await;
        }
        let before = segment_files(dir.path(), "s");
        assert!(before.len() > 3, "{before:?}");
        let stream = segments.stream("group", "s").await.unwrap();
        assert!(stream.expire(20).await.unwrap() > 0);
        assert!(segment_files(dir.path(), "s").len() < before.len());
        let left = everything(&segments, "s").await;
        assert!(left.len() >= 20 && left.last().unwrap().0 == 39);
        assert_eq!(stream.expire(i64::MAX).await.unwrap(), segment_files_left(&before, &left));
        assert_eq!(put(&segments, "s", 50, &[(50, "new".into())]).await, 41);
    });
}

/// Files that held what was left.
fn segment_files_left(files: &[PathBuf], left: &[(u64, String)]) -> usize {
    let first = left[0].0;
    let starts = files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap());
    starts.filter(|start| *start >= first).count()
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _segments = Segments::open(dir.path().to_owned()).unwrap();
    assert!(matches!(Segments::open(dir.path().to_owned()), Err(SegmentsError::InUse(_))));
}

#[test]
fn a_deleted_stream_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let segments = Segments::open(dir.path().to_owned()).unwrap();
        put(&segments, "s", 1, &[(1, "x".into())]).await;
        let stream = segments.stream("group", "s").await.unwrap();
        segments.delete_stream("group", "s").await.unwrap();
        let frame = encode(2, [(2, "late")].into_iter());
        assert!(matches!(segments.append(&stream, frame).await, Err(SegmentsError::Gone)));
        assert!(!dir.path().join("group/s").exists());
    });
}
