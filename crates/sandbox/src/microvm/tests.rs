//! What a task's machine is given, and what its program may take.

use std::path::Path;

use super::*;

pub(super) fn machines(dir: &Path, accelerator: Accelerator) -> Machines {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    Machines::of(VmmConfig {
        program: file("qemu"),
        files: Vec::new(),
        kernel: file("kernel"),
        initramfs: file("initramfs"),
        acpi: false,
        accelerator,
        tsc_khz: None,
    })
}

pub(super) fn task(cpu_units: u32, memory_mib: u64) -> TaskSandboxSpec {
    TaskSandboxSpec {
        id: "task".into(),
        instance: "test".into(),
        dir: "/nowhere".into(),
        isolation: crate::Isolation::MicroVm,
        cpu_units,
        memory_bytes: memory_mib * MIB,
        pids_max: None,
        shared_pid_namespace: false,
        network_namespace: None,
        hostname: "task".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        ephemeral_storage: None,
    }
}

/// While it boots, and when it is up.
fn limits(accelerator: Accelerator, cpu_units: u32, memory_mib: u64) -> (MachineConfig, Resources) {
    let home = tempfile::tempdir().unwrap();
    let machines = machines(home.path(), accelerator);
    let mut machine = machines.config(&task(cpu_units, memory_mib), &[]).unwrap();
    let quota =
        Resources { cpu_quota_us: Some(25_000), cpu_period_us: Some(100_000), ..Resources::default() };
    let boots = Machines::limit(&mut machine, &quota, cpu_units);
    (machine, boots)
}

#[test]
fn an_emulated_machine_has_its_tasks_share_and_more_while_it_boots() {
    for (cpu_units, shares) in [(256, 256), (16_384, 16_384), (0, 2)] {
        let (machine, boots) = limits(Accelerator::Tcg, cpu_units, 512);
        assert_eq!((machine.limits.cpu_shares, machine.limits.cpu_quota_us), (Some(shares), None));
        assert_eq!((boots.cpu_shares, boots.cpu_quota_us), (Some(BOOT_CPU_SHARES), None));
    }
    let (machine, boots) = limits(Accelerator::Kvm, 256, 512);
    assert_eq!((machine.limits.cpu_shares, machine.limits.cpu_quota_us), (None, Some(25_000)));
    assert_eq!((boots.cpu_shares, boots.cpu_quota_us), (None, None));
}

#[test]
fn only_an_emulated_guest_is_booted_again_for_its_silence() {
    let (machine, _) = limits(Accelerator::Tcg, 256, 512);
    let part = machine.boot_deadline_ms / 4;
    assert_eq!(machine.hello_deadline_ms, Some(part));
    assert!(part >= 20_000, "what takes three seconds has plenty: {part}");
    assert_eq!(limits(Accelerator::Kvm, 256, 512).0.hello_deadline_ms, None);
}

/// Of a page of 4 KiB the guest's kernel keeps 64 bytes, and page tables on the host take 8 bytes for each, twice with KVM.
#[test]
fn what_is_beside_a_task_grows_with_it() {
    for task_mib in [512, 2048, 30_720, 122_880] {
        let (machine, boots) = limits(Accelerator::Kvm, 4096, task_mib);
        let beside_mib = machine.memory_mib - task_mib;
        assert!(
            beside_mib >= 64 + machine.memory_mib / 64 + machine.memory_mib / 1024,
            "{task_mib}: {beside_mib}"
        );
        let program_mib = boots.memory_max_bytes.unwrap() / MIB - machine.memory_mib;
        assert!(program_mib >= 256 + machine.memory_mib / 256, "{task_mib}: {program_mib}");
    }
}

#[test]
fn a_machines_memory_says_its_tasks() {
    for task in 1..200_000 {
        assert_eq!(task_mib(machine_mib(task)), Some(task));
    }
    let none = (0..10_000).filter(|machine| task_mib(*machine).is_none());
    // Up to what the guest itself takes, and where the part of a task's memory goes up by one.
    assert!(
        none.filter(|machine| *machine > GUEST_MEMORY_MIB)
            .all(|machine| (machine + 1 - GUEST_MEMORY_MIB).is_multiple_of(57))
    );
}
