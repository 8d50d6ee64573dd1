//! Volumes that get what the image has, however much that is.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use common::{DEADLINE, Task};
use ferrogate_sandbox::{ContainerSpec, Error, ImageDefaults, Status};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn with_volume(task: &Task, id: &str, script: &str) -> ContainerSpec {
    let image = ImageDefaults { volumes: vec!["/data".into()], ..ImageDefaults::default() };
    ContainerSpec { image, ..task.script(id, script) }
}

/// A file of the image's `/data`.
fn data(task: &Task, name: &str) -> File {
    let directory = task.layer.join("data/inner");
    std::fs::create_dir_all(&directory).unwrap();
    File::create(directory.join(name)).unwrap()
}

#[tokio::test]
async fn holes_stay_holes() {
    let task = Task::new().await;
    let sparse = data(&task, "sparse");
    sparse.set_len(GIB).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", GIB / 2).unwrap();
    sparse.write_all_at(b"end", GIB - 3).unwrap();
    data(&task, "hole").set_len(GIB).unwrap();
    data(&task, "empty");
    assert!(sparse.metadata().unwrap().blocks() * 512 < MIB, "no holes here: the test shows nothing");
    let script = "cd /data/inner; stat -c %s sparse hole empty; head -c 5 sparse; echo; \
                  tail -c 3 sparse; echo; dd if=sparse bs=4096 skip=131072 count=1 2>/dev/null | head -c 6; echo; \
                  [ $(du -k sparse | sed 's/\t.*//') -lt 1024 ] && [ $(du -k hole | sed 's/\t.*//') -lt 1024 ] && echo small";
    let (code, output) = task.run(&with_volume(&task, "a", &script.replace("du ", "busybox du "))).await;
    assert_eq!((code, output.as_str()), (0, "1073741824\n1073741824\n0\nbegin\nend\nmiddle\nsmall\n"));
    let copied = task.task.state().await.unwrap().containers[0].copied_bytes.unwrap();
    assert!((14..MIB).contains(&copied), "{copied}");
    // Again: what is there stays.
    let mut events = task.task.events();
    task.task.start("a").await.unwrap();
    while !matches!(events.next().await, Some(ferrogate_sandbox::TaskEvent::Exited(_))) {}
    assert_eq!(task.exit_code("a").await, 0);
}

/// Much, and slowly: as much as it takes to look in on it.
fn much(task: &Task) {
    let file = data(task, "much");
    let block = vec![b'x'; 8 * MIB as usize];
    for at in 0..96 {
        file.write_all_at(&block, at * 8 * MIB).unwrap();
    }
}

async fn copying(task: &Task) -> u64 {
    let look = async {
        loop {
            let container = task.task.state().await.unwrap().containers.remove(0);
            match container.copied_bytes {
                Some(copied) if copied > 0 => {
                    assert_eq!(
                        (container.status, container.starts),
                        (Status::Created, 0),
                        "it copies no more"
                    );
                    return copied;
                }
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, look).await.expect("nothing is copied")
}

#[tokio::test]
async fn the_shim_answers_while_it_copies_and_a_stop_ends_it() {
    let task = Task::new().await;
    much(&task);
    task.task.create_container(&with_volume(&task, "a", "sleep 1000")).await.unwrap();
    let start = task.task.start("a");
    let look = async {
        let first = copying(&task).await;
        assert!(first < 96 * 8 * MIB, "all was copied before anybody could look");
        assert_eq!(task.task.stats().await.unwrap().containers.len(), 1);
        task.task.cancel_start("a").await.unwrap();
    };
    let (started, ()) = tokio::time::timeout(DEADLINE, async { tokio::join!(start, look) }).await.unwrap();
    let Err(Error::WrongState(message)) = started else { panic!("{started:?}") };
    assert!(message.contains("cancelled"), "{message}");
    let container = task.task.state().await.unwrap().containers.remove(0);
    assert_eq!((container.status, container.starts), (Status::Created, 0));

    // Begun anew, what was there in part is whole.
    let start = task.task.start("a");
    assert!(tokio::time::timeout(DEADLINE, start).await.unwrap().unwrap() > 0);
    let argv = ["sh", "-c", "stat -c %s /data/inner/much"].map(str::to_owned).to_vec();
    let mut exec =
        task.task.exec("a", ferrogate_sandbox::ExecSpec { argv, ..Default::default() }).await.unwrap();
    let mut output = Vec::new();
    assert_eq!(exec.wait_output(&mut output, 100).await.unwrap(), 0);
    assert_eq!(String::from_utf8(output).unwrap(), format!("{}\n", 96 * 8 * MIB));
    // Of one that runs there is nothing to cancel.
    task.task.cancel_start("a").await.unwrap();
    assert_eq!(task.task.state().await.unwrap().containers[0].status, Status::Running);
}

#[tokio::test]
async fn a_container_can_be_deleted_or_killed_while_it_copies() {
    let task = Task::new().await;
    much(&task);
    task.task.create_container(&with_volume(&task, "a", "echo fine")).await.unwrap();
    let (started, ()) = tokio::join!(task.task.start("a"), async {
        copying(&task).await;
        task.task.delete_container("a").await.unwrap();
    });
    assert!(matches!(started, Err(Error::WrongState(_))), "{started:?}");
    task.task.create_container(&with_volume(&task, "a", "echo fine")).await.unwrap();
    let (started, ()) = tokio::join!(task.task.start("a"), async {
        copying(&task).await;
        task.task.kill(None).await.unwrap();
    });
    assert!(matches!(started, Err(Error::Refused(_))), "{started:?}");
    assert_eq!(task.task.state().await.unwrap().containers[0].status, Status::Exited);
    // And with the task, whatever it does.
    task.task.create_container(&with_volume(&task, "b", "echo fine")).await.unwrap();
    let shim = task.shim_pid();
    let (_, ()) = tokio::join!(task.task.start("b"), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        task.task.destroy().await.unwrap();
    });
    assert!(!common::is_alive(shim) && !task.dir.exists());
}
