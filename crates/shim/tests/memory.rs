//! What a container that may trace finds in the processes of ours that it can see.

mod common;

use common::Task;
use ferrogate_sandbox::{ContainerSpec, ExecSpec};

/// All a first process has in memory that it can write, and its environment. The patterns are written so that they do not
/// match themselves.
const SEARCH: &str = r#"
while read range rights rest; do
    case $rights in r*) ;; *) continue ;; esac
    case $rest in *vvar*|*vsyscall*) continue ;; esac
    begin=$((0x${range%-*})) end=$((0x${range#*-}))
    dd if=/proc/1/mem bs=4096 skip=$((begin / 4096)) count=$(((end - begin) / 4096)) 2>/dev/null
done < /proc/1/maps > /tmp/memory
cat /proc/1/environ >> /tmp/memory
[ $(stat -c %s /tmp/memory) -gt 100000 ] && echo read
grep -c 'own-mar[k]er-of-b' /tmp/memory | sed 's/^[1-9].*/own found/'
grep -q 'other-mar[k]er-of' /tmp/memory && echo OTHERS FOUND: $(grep -o -a 'other-mar[k]er-of-[a-z-]*' /tmp/memory | sort | uniq -c)
echo end
"#;

fn marked(spec: ContainerSpec, marker: &str) -> ContainerSpec {
    ContainerSpec { environment: [("SECRET".to_owned(), marker.to_owned())].into(), ..spec }
}

fn tracing(spec: ContainerSpec) -> ContainerSpec {
    ContainerSpec {
        init: true,
        capabilities_add: vec!["SYS_PTRACE".into()],
        // The second argument is the container's own and must be found: the search finds what is there.
        ..marked(spec, "own-marker-of-b")
    }
}

/// Others that were there before: one that runs, one that ended, one made only; what they say, and what is executed.
async fn others(task: &Task) {
    let script = "echo other-marker-of-a-output; echo other-marker-of-a-errors >&2; printf other-marker-of-a-begun; sleep 1000";
    let running = marked(task.script("a", script), "other-marker-of-a");
    task.task.create_container(&running).await.unwrap();
    task.task.start("a").await.unwrap();
    task.wait_for_line("a", "output").await;
    task.run(&marked(task.script("ended", "echo $SECRET"), "other-marker-of-ended")).await;
    task.task.create_container(&marked(task.script("made", "true"), "other-marker-of-made")).await.unwrap();
    let spec = ExecSpec {
        argv: vec!["true".into()],
        environment: [("SECRET".to_owned(), "other-marker-of-exec".to_owned())].into(),
        ..ExecSpec::default()
    };
    assert_eq!(task.task.exec("a", spec).await.unwrap().wait().await.unwrap(), 0);
}

#[tokio::test]
async fn a_reaper_has_nothing_of_others() {
    let task = Task::new().await;
    others(&task).await;
    let (_, output) = task.run(&tracing(task.script("b", SEARCH))).await;
    assert_eq!(output, "read\nown found\nend\n");
}

/// The holder of the task's PID namespace was there before all, and knows nobody.
#[tokio::test]
async fn the_holder_of_a_shared_namespace_has_nothing_of_anybody() {
    let task = Task::with(|spec| spec.shared_pid_namespace = true).await;
    others(&task).await;
    let (_, output) = task.run(&tracing(task.script("b", SEARCH))).await;
    assert_eq!(output, "read\n0\nend\n");
}
