//! The device nodes a container has, and the rules that keep it to them.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

const NODES: &[(&str, i64, i64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

pub(super) fn nodes() -> Result<Vec<LinuxDevice>, OciSpecError> {
    NODES
        .iter()
        .map(|(path, major, minor)| {
            LinuxDeviceBuilder::default()
                .path(*path)
                .typ(LinuxDeviceType::C)
                .major(*major)
                .minor(*minor)
                .file_mode(0o666_u32)
                .uid(0_u32)
                .gid(0_u32)
                .build()
        })
        .collect()
}

/// Nothing but the nodes above, pseudo-terminals and their multiplexer.
pub(super) fn rules() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let mut rules = vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?];
    let nodes = NODES.iter().map(|(_, major, minor)| (*major, Some(*minor)));
    for (major, minor) in nodes.chain([(5, Some(2)), (136, None)]) {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(major)
            .access("rwm");
        rules.push(match minor {
            Some(minor) => rule.minor(minor).build()?,
            None => rule.build()?,
        });
    }
    Ok(rules)
}
