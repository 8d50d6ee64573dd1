//! The main job by boto3, in a script as people write them.

use ferrogate_tests::Cluster;

#[test]
fn boto3_does_the_same() {
    let cluster = Cluster::start();
    let said = cluster.python("main_job.py", &[]);
    assert!(said.stdout.trim_end().ends_with("done"), "{}\n{}", said.stdout, said.stderr);
    said.ok();
    assert_eq!(cluster.left_of_tasks(), Vec::<String>::new());
}
