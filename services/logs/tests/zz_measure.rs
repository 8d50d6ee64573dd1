mod common;
use common::*;
use ferrogate_api::logs::*;
use ferrogate_logs::LogsService;
use ferrogate_store::{MemoryStore, Store};
use std::sync::Arc;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let dir = tempfile::tempdir_in(std::env::var("MDIR").unwrap()).unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let service = LogsService::open(ACCOUNT, store, dir.path().to_owned()).unwrap();
    let cx = context();
    service
        .create_log_group(
            &cx,
            CreateLogGroupRequest { log_group_name: Some("g".into()), ..Default::default() },
        )
        .await
        .unwrap();
    for s in 0..64 {
        service.create_log_stream(&cx, create_stream("g", &s.to_string())).await.unwrap();
    }
    for (streams, writers) in [(1, 1), (1, 16), (1, 64), (8, 64), (64, 64)] {
        let start = std::time::Instant::now();
        let mut t = tokio::task::JoinSet::new();
        for w in 0..writers {
            let (service, cx) = (service.clone(), cx.clone());
            t.spawn(async move {
                let msg = "x".repeat(100);
                let ev: Vec<(i64, &str)> = (0..10).map(|_| (NOW, msg.as_str())).collect();
                for _ in 0..100 {
                    service.put_log_events(&cx, put("g", &(w % streams).to_string(), &ev)).await.unwrap();
                }
            });
        }
        t.join_all().await;
        let s = start.elapsed().as_secs_f64();
        eprintln!("{streams} streams {writers} writers: {:.0} puts/s", writers as f64 * 100.0 / s);
    }
    let start = std::time::Instant::now();
    let (mut n, mut input, mut pages) = (
        0,
        FilterLogEventsRequest {
            log_group_name: Some("g".into()),
            filter_pattern: Some("xyz".into()),
            ..Default::default()
        },
        0,
    );
    loop {
        let p = service.filter_log_events(&cx, input.clone()).await.unwrap();
        n += p.events.unwrap().len();
        pages += 1;
        input.next_token = p.next_token;
        if input.next_token.is_none() {
            break;
        }
    }
    eprintln!("filter without hits over all: {n} found, {pages} pages, {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let (mut n, mut input) = (0, get("g", "0"));
    loop {
        let p = service.get_log_events(&cx, input.clone()).await.unwrap();
        n += messages(&p).len();
        if p.next_forward_token == input.next_token {
            break;
        }
        input.next_token = p.next_forward_token;
    }
    eprintln!("get all of stream 0: {n} events {:?}", start.elapsed());
}
