//! The state machine: whole lives, and whatever can happen in whatever order.

use ferrogate_nodeapi::StopCause;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn report(sequence: u64, status: ObservedStatus) -> TaskReport {
    TaskReport {
        task_arn: String::new(),
        sequence,
        status,
        isolation: Isolation::Container,
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        execution_stopped_at: None,
        stop: None,
        containers: Vec::new(),
    }
}

fn placed() -> Lifecycle {
    let mut task = Lifecycle::new(at(0), ["app"]);
    task.apply(Event::Placed, at(1)).unwrap();
    task
}

#[test]
fn a_whole_life() {
    let mut task = placed();
    for (sequence, observed, expected) in [
        (1, ObservedStatus::Pending, Pending),
        (2, ObservedStatus::Activating, Activating),
        (3, ObservedStatus::Running, Running),
    ] {
        task.apply(Event::Reported(&report(sequence, observed)), at(2)).unwrap();
        assert_eq!(task.status(), expected);
    }
    let stop = Event::StopRequested { code: USER_INITIATED, reason: "Task stopped by user".into() };
    assert_eq!(task.apply(stop, at(3)), Ok(true));
    assert_eq!((task.status(), task.desired()), (Running, Desired::Stopped));
    task.apply(Event::Reported(&report(4, ObservedStatus::Stopping)), at(4)).unwrap();
    assert_eq!(task.status(), Stopping);
    task.apply(Event::Reported(&report(5, ObservedStatus::Stopped)), at(5)).unwrap();
    assert_eq!(task.status(), Deprovisioning);
    task.apply(Event::Released, at(6)).unwrap();
    assert_eq!((task.status(), task.stopped_at()), (Stopped, Some(at(6))));
    assert_eq!(task.stop_code(), Some(USER_INITIATED));
    assert_eq!(task.container("app").unwrap().status, ContainerStatus::Stopped);
}

#[test]
fn reports_may_skip_states_and_old_ones_are_dropped() {
    let mut task = placed();
    task.apply(Event::Reported(&report(7, ObservedStatus::Running)), at(2)).unwrap();
    assert_eq!((task.status(), task.started_at()), (Running, Some(at(2))));
    let (version, before) = (task.version(), task.clone());
    assert_eq!(task.apply(Event::Reported(&report(7, ObservedStatus::Stopped)), at(3)), Ok(false));
    assert_eq!(task.apply(Event::Reported(&report(3, ObservedStatus::Activating)), at(3)), Ok(false));
    assert_eq!(task, before);
    // Nothing new to see: kept, so that older ones are dropped, but no new version.
    assert_eq!(task.apply(Event::Reported(&report(8, ObservedStatus::Running)), at(4)), Ok(true));
    assert_eq!(task.version(), version);
}

#[test]
fn the_first_cause_stays() {
    let mut task = placed();
    let stop = StopCause {
        code: ESSENTIAL_CONTAINER_EXITED.into(),
        reason: "Essential container in task exited".into(),
    };
    let ended = TaskReport { stop: Some(stop), ..report(1, ObservedStatus::Stopping) };
    task.apply(Event::Reported(&ended), at(2)).unwrap();
    let version = task.version();
    let late = Event::StopRequested { code: USER_INITIATED, reason: "x".into() };
    assert_eq!(task.apply(late, at(3)), Ok(false));
    assert_eq!((task.stop_code(), task.version()), (Some(ESSENTIAL_CONTAINER_EXITED), version));
}

#[test]
fn stopped_before_it_was_placed() {
    let mut task = Lifecycle::new(at(0), ["app"]);
    assert!(task.apply(Event::Abandoned, at(1)).is_err());
    task.apply(Event::StopRequested { code: USER_INITIATED, reason: "x".into() }, at(1)).unwrap();
    assert_eq!(task.status(), Provisioning);
    // The interface came too late: it is given back, no node sees the task.
    task.apply(Event::Placed, at(2)).unwrap();
    assert_eq!(task.status(), Deprovisioning);
}

fn event() -> impl Strategy<Value = u8> {
    0u8..11
}

proptest! {
    /// Whatever happens in whatever order: only legal steps, versions that grow, nothing that goes back.
    #[test]
    fn only_legal_steps(events in proptest::collection::vec((event(), 0u64..40), 0..60)) {
        let mut task = Lifecycle::new(at(0), ["app"]);
        for (step, (event, sequence)) in events.into_iter().enumerate() {
            let now = at(1 + step as i64);
            let observed = match event {
                5 => ObservedStatus::Pending,
                6 => ObservedStatus::Activating,
                7 => ObservedStatus::Running,
                8 => ObservedStatus::Stopping,
                _ => ObservedStatus::Stopped,
            };
            let report = report(sequence, observed);
            let event = match event {
                0 => Event::Placed,
                1 => Event::NotProvisioned { reason: "r".into() },
                2 => Event::Abandoned,
                3 => Event::StopRequested { code: USER_INITIATED, reason: "r".into() },
                4 => Event::Released,
                _ => Event::Reported(&report),
            };
            let before = task.clone();
            match task.apply(event, now) {
                Err(_) => prop_assert_eq!(&task, &before),
                Ok(changed) => prop_assert_eq!(changed, task != before),
            }
            prop_assert!(before.status.way_to(task.status).is_some());
            prop_assert!(task.status >= before.status);
            prop_assert!(task.version == before.version || task.version == before.version + 1);
            prop_assert!(task.reported_sequence >= before.reported_sequence);
            prop_assert!(!(before.desired == Desired::Stopped && task.desired == Desired::Running));
            if before.stop_code.is_some() {
                prop_assert_eq!(&task.stop_code, &before.stop_code);
            }
            prop_assert_eq!(task.desired == Desired::Stopped, task.stop_code.is_some());
            prop_assert_eq!(task.status == Stopped, task.stopped_at.is_some());
            prop_assert!(task.status < Deactivating || task.desired == Desired::Stopped);
            if task.status >= Deprovisioning {
                prop_assert!(task.containers.values().all(|c| c.status == ContainerStatus::Stopped));
            }
        }
    }
}

#[test]
fn every_state_leads_to_the_end() {
    for status in Status::ALL {
        assert!(status.way_to(Stopped).is_some(), "{status:?}");
        for next in status.next() {
            assert!(*next > status, "{status:?} must not go back to {next:?}");
        }
    }
}
