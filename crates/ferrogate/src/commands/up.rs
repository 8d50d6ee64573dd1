//! `ferrogate up`: everything in one program, until it is told to leave.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferrogate_image::Mirror;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::client::{ADMIN_SOCKET, Ask};
use crate::commands::down::stop_all;
use crate::compose::{Ferrogate, Options};
use crate::data::{DataDir, Endpoint, Lock, RootKey, write_profile};
use crate::{Up, isolation, preflight};

const ASK_BYTES_MAX: u64 = 4096;

pub(crate) fn run(options: Up) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FERROGATE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    preflight::check()?;
    preflight::raise_limits();
    let mirrors = options
        .registry_mirrors
        .iter()
        .map(|text| Mirror::parse(text).map_err(anyhow::Error::msg))
        .collect::<Result<Vec<_>>>()?;
    let isolation = isolation::Wanted {
        isolation: options.isolation,
        kernel: options.guest_kernel.clone().or_else(isolation::installed_kernel),
        emulate: options.emulate,
        snapshots: !options.no_snapshots,
    };
    isolation.check()?;
    let data = DataDir::new(&options.place.data_dir)?;
    data.create()?;
    let _lock = Lock::take(&data)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("ferrogate")
        .build()?
        .block_on(serve(&data, &options, mirrors, isolation))
}

async fn serve(
    data: &DataDir,
    options: &Up,
    mirrors: Vec<Mirror>,
    isolation: isolation::Wanted,
) -> Result<()> {
    let begun = Instant::now();
    if !options.listen.ip().is_loopback() {
        bail!(
            "--listen {}: the API is served on loopback only until it has TLS: 127.0.0.1:PORT",
            options.listen
        );
    }
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!("{} cannot be listened on: does another program serve there?", options.listen)
    })?;
    let listen = listener.local_addr()?;
    let key = RootKey::of(data)?;
    let endpoint = Endpoint { listen, region: options.region.clone(), account: options.account.clone() };
    let composed = Options {
        account: options.account.clone(),
        region: options.region.clone(),
        mirrors,
        image_cache_bytes_max: options.image_cache_max,
        pre_pull: options.pre_pull,
        isolation,
        api: Some(listen),
    };
    let ferrogate = Arc::new(Ferrogate::open(data, composed, key.clone()).await?);
    data.write_json(Endpoint::FILE, &endpoint)?;
    write_profile(data, &endpoint, &key)?;

    let (stop, stopped) = watch::channel(false);
    let front = tokio::spawn(Arc::clone(&ferrogate.front).serve(listener, stopped));
    let agent = tokio::spawn(Arc::clone(&ferrogate.agent).run());
    let (down, mut down_asked) = mpsc::channel(1);
    let admin = tokio::spawn(admin(data.clone(), Arc::clone(&ferrogate), endpoint.clone(), down.clone()));
    if options.then_down {
        down.send(None).await.context("the program is there to be told")?;
    } else {
        greet(data, &endpoint, &ferrogate.isolation, begun.elapsed(), listen);
    }

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let answer = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        Some(answer) = down_asked.recv() => {
            let result = stop_all(&ferrogate).await;
            Some((answer, result))
        }
    };
    stop.send_replace(true);
    let _ = front.await;
    ferrogate.shut_down().await;
    agent.abort();
    let _ = agent.await;
    if let Some((answer, result)) = answer {
        let result = match result {
            Ok(tasks) => ferrogate.remove_rest().await.map(|()| tasks),
            Err(error) => Err(error),
        };
        let said = match &result {
            Ok(tasks) => json!({ "stopped_tasks": tasks }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        if let Some(stream) = answer {
            say(stream, &said).await;
        }
        result?;
    } else {
        eprintln!(
            "ferrogate has stopped. Its tasks go on: `ferrogate up` takes them over, `ferrogate down` ends them."
        );
    }
    admin.abort();
    let _ = std::fs::remove_file(data.join(ADMIN_SOCKET));
    Ok(())
}

fn greet(data: &DataDir, endpoint: &Endpoint, isolation: &str, took: Duration, listen: SocketAddr) {
    let dir = data.path().display();
    println!("Ferrogate {} is ready after {} ms", env!("CARGO_PKG_VERSION"), took.as_millis());
    println!("  API        http://{listen}   account {}, region {}", endpoint.account, endpoint.region);
    println!("  isolation  {isolation}");
    println!("  data       {dir}");
    println!("  AWS tools  eval \"$(ferrogate env --data-dir {dir})\"");
    println!(
        "       or    AWS_CONFIG_FILE={dir}/aws/config AWS_SHARED_CREDENTIALS_FILE={dir}/aws/credentials"
    );
}

/// Someone who asked for `down` and waits for the answer.
type Waiting = Option<UnixStream>;

async fn admin(data: DataDir, ferrogate: Arc<Ferrogate>, endpoint: Endpoint, down: mpsc::Sender<Waiting>) {
    let path = data.join(ADMIN_SOCKET);
    let _ = std::fs::remove_file(&path);
    let listener = match UnixListener::bind(&path).and_then(|listener| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map(|()| listener)
    }) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "no admin socket: `ferrogate status` and `down` will not work");
            return;
        }
    };
    while let Ok((mut stream, _)) = listener.accept().await {
        match read_ask(&mut stream).await {
            Ok(Ask::Down) => {
                let _ = down.send(Some(stream)).await;
            }
            Ok(Ask::Status) => say(stream, &status(&ferrogate, &endpoint)).await,
            Ok(Ask::Explain { task_arn }) => {
                let answer = match ferrogate.explain(&task_arn).await {
                    Ok(explanation) => json!(explanation),
                    Err(error) => json!({ "error": format!("{error:#}") }),
                };
                say(stream, &answer).await;
            }
            Ok(Ask::Task { id }) => say(stream, &json!({ "output": ferrogate.agent.output_dirs(&id) })).await,
            Err(error) => say(stream, &json!({ "error": error.to_string() })).await,
        }
    }
}

async fn read_ask(stream: &mut UnixStream) -> Result<Ask> {
    let mut line = String::new();
    let reading = BufReader::new(stream.take(ASK_BYTES_MAX)).read_line(&mut line).await;
    reading?;
    Ok(serde_json::from_str(&line)?)
}

async fn say(mut stream: UnixStream, answer: &Value) {
    let mut line = answer.to_string();
    line.push('\n');
    if let Err(error) = stream.write_all(line.as_bytes()).await {
        tracing::debug!(%error, "an answer was not taken");
    }
}

fn status(ferrogate: &Ferrogate, endpoint: &Endpoint) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "api": endpoint.url(),
        "account": endpoint.account,
        "region": endpoint.region,
        "isolation": ferrogate.isolation,
        "snapshots": ferrogate.snapshots.as_ref().map(|snapshots| snapshots.status()),
        "store_revision": ferrogate.store.revision(),
        "tasks_on_node": ferrogate.agent.tasks(),
        "controllers": ferrogate.driver.statuses(),
    })
}
