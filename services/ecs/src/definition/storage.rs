//! Where a task keeps things: its scratch space, its volumes, and what containers take from one another.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::{ApiError, ecs};

use super::bad_name;
use crate::errors::{client, refuse};
use crate::names::is_name;

const EPHEMERAL_GIB_MIN: i32 = 21;
const EPHEMERAL_GIB_MAX: i32 = 200;

/// Of a definition or an override.
pub(crate) fn check_ephemeral(storage: Option<&ecs::EphemeralStorage>) -> Result<Option<u32>, ApiError> {
    let Some(storage) = storage else { return Ok(None) };
    let gib = storage.size_in_gib.unwrap_or_default();
    if gib < EPHEMERAL_GIB_MIN {
        return Err(client(format!("EphemeralStorage size should be at least {EPHEMERAL_GIB_MIN}")));
    }
    if gib > EPHEMERAL_GIB_MAX {
        return Err(client(format!("EphemeralStorage size should be at most {EPHEMERAL_GIB_MAX}")));
    }
    Ok(u32::try_from(gib).ok())
}

/// Those of a definition: names, and what kind they are.
pub(super) fn volumes(volumes: Vec<ecs::Volume>, for_fargate: bool) -> Result<Vec<ecs::Volume>, ApiError> {
    let mut names = BTreeSet::new();
    let mut checked = Vec::with_capacity(volumes.len());
    for volume in volumes {
        check_kind(&volume, for_fargate)?;
        let name = volume.name.unwrap_or_default();
        if !is_name(&name) {
            return Err(bad_name("volume", &name));
        }
        if !names.insert(name.clone()) {
            return Err(client(format!("Volume names should be unique: '{name}' is there twice.")));
        }
        let host = volume.host.unwrap_or_default();
        checked.push(ecs::Volume { name: Some(name), host: Some(host), ..Default::default() });
    }
    Ok(checked)
}

fn check_kind(volume: &ecs::Volume, for_fargate: bool) -> Result<(), ApiError> {
    let of_hosts = [
        ("dockerVolumeConfiguration", volume.docker_volume_configuration.is_some()),
        (
            "fsxWindowsFileServerVolumeConfiguration",
            volume.fsx_windows_file_server_volume_configuration.is_some(),
        ),
    ];
    if for_fargate && let Some((what, _)) = of_hosts.iter().find(|(_, present)| *present) {
        return Err(super::fargate::not_on_fargate(what));
    }
    refuse(&of_hosts)?;
    refuse(&[
        ("efsVolumeConfiguration", volume.efs_volume_configuration.is_some()),
        ("s3filesVolumeConfiguration", volume.s3files_volume_configuration.is_some()),
        ("configuredAtLaunch", volume.configured_at_launch == Some(true)),
    ])
}

type ByName<'a> = BTreeMap<&'a str, &'a ecs::ContainerDefinition>;

fn by_name(containers: &[ecs::ContainerDefinition]) -> ByName<'_> {
    containers.iter().filter_map(|container| Some((container.name.as_deref()?, container))).collect()
}

/// The containers it takes mounts from. They start first: ECS API reference, ContainerDependency, `START`.
pub(crate) fn sources(container: &ecs::ContainerDefinition) -> impl Iterator<Item = &str> {
    container.volumes_from.iter().flatten().filter_map(|from| from.source_container.as_deref())
}

/// The containers that others take their mounts from are there, each once, and none is its own source.
pub(super) fn check_volumes_from(containers: &[ecs::ContainerDefinition]) -> Result<(), ApiError> {
    let by_name = by_name(containers);
    for (name, container) in &by_name {
        let mut seen = BTreeSet::new();
        for from in container.volumes_from.iter().flatten() {
            let source = from.source_container.as_deref().unwrap_or_default();
            let bad = |why: String| client(format!("Invalid 'volumesFrom' setting. {why}"));
            if !by_name.contains_key(source) {
                return Err(bad(format!("Unknown container: '{source}'.")));
            }
            if !seen.insert(source) {
                return Err(bad(format!("Container '{name}' names '{source}' twice.")));
            }
        }
    }
    let mut left: BTreeSet<&str> = by_name.keys().copied().collect();
    loop {
        let waiting: BTreeSet<&str> = left
            .iter()
            .copied()
            .filter(|name| sources(by_name[name]).any(|source| left.contains(source)))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if waiting.len() == left.len() {
            let name = waiting.first().copied().unwrap_or_default();
            return Err(client(format!(
                "Invalid 'volumesFrom' setting. Container '{name}' takes its volumes from itself, if by way of others."
            )));
        }
        left = waiting;
    }
}

/// What is mounted in a container of a checked definition: what it takes from others, under what it says itself.
/// Among sources the later one wins, as with Docker.
pub(crate) fn mounts(name: &str, containers: &[ecs::ContainerDefinition]) -> Vec<ecs::MountPoint> {
    let mut by_path = BTreeMap::new();
    collect(name, &by_name(containers), containers.len(), &mut by_path);
    by_path.into_values().collect()
}

/// `depth`: a chain of sources is no longer than there are containers.
fn collect(name: &str, by_name: &ByName<'_>, depth: usize, into: &mut BTreeMap<String, ecs::MountPoint>) {
    let Some(container) = by_name.get(name).filter(|_| depth > 0) else { return };
    for from in container.volumes_from.iter().flatten() {
        let mut taken = BTreeMap::new();
        collect(from.source_container.as_deref().unwrap_or_default(), by_name, depth - 1, &mut taken);
        for mount in taken.values_mut().filter(|_| from.read_only == Some(true)) {
            mount.read_only = Some(true);
        }
        into.extend(taken);
    }
    for mount in container.mount_points.iter().flatten() {
        let path = mount.container_path.clone().unwrap_or_default();
        into.insert(normal(&path).to_owned(), mount.clone());
    }
}

/// `/data/` and `/data` are one place.
pub(super) fn normal(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    if path.is_empty() { "/" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn container(name: &str, from: &[(&str, bool)], mounts: &[(&str, &str)]) -> ecs::ContainerDefinition {
        let from = from.iter().map(|(source, read_only)| ecs::VolumeFrom {
            source_container: Some((*source).into()),
            read_only: Some(*read_only),
        });
        let mounts = mounts.iter().map(|(volume, path)| ecs::MountPoint {
            source_volume: Some((*volume).into()),
            container_path: Some((*path).into()),
            read_only: None,
        });
        ecs::ContainerDefinition {
            name: Some(name.into()),
            volumes_from: Some(from.collect()),
            mount_points: Some(mounts.collect()),
            ..Default::default()
        }
    }

    fn mounted(name: &str, containers: &[ecs::ContainerDefinition]) -> Vec<(String, String, bool)> {
        mounts(name, containers)
            .into_iter()
            .map(|one| (one.container_path.unwrap(), one.source_volume.unwrap(), one.read_only == Some(true)))
            .collect()
    }

    #[test]
    fn through_others() {
        let containers = [
            container("a", &[], &[("one", "/one"), ("two", "/two")]),
            container("b", &[("a", false)], &[("three", "/two/")]),
            container("c", &[("b", true)], &[("four", "/four")]),
            container("d", &[("a", true), ("b", false)], &[]),
        ];
        assert_eq!(check_volumes_from(&containers), Ok(()));
        let own = |path: &str, volume: &str, read_only| (path.to_owned(), volume.to_owned(), read_only);
        assert_eq!(mounted("a", &containers), [own("/one", "one", false), own("/two", "two", false)]);
        assert_eq!(mounted("b", &containers), [own("/one", "one", false), own("/two/", "three", false)]);
        assert_eq!(
            mounted("c", &containers),
            [own("/four", "four", false), own("/one", "one", true), own("/two/", "three", true)]
        );
        assert_eq!(mounted("d", &containers), [own("/one", "one", false), own("/two/", "three", false)]);
    }

    /// Whether `from` comes back to itself, looked for the plain way.
    fn is_its_own_source(from: usize, sources: &[Vec<usize>]) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), sources[from].clone());
        while let Some(one) = next.pop() {
            if one == from {
                return true;
            }
            if seen.insert(one) {
                next.extend(&sources[one]);
            }
        }
        false
    }

    proptest! {
        #[test]
        fn any_sources(sources in proptest::collection::vec(proptest::collection::btree_set(0usize..6, 0..4), 6)) {
            let sources: Vec<Vec<usize>> = sources.into_iter().map(|of| of.into_iter().collect()).collect();
            let name = |at: usize| format!("c{at}");
            let containers: Vec<ecs::ContainerDefinition> = sources
                .iter()
                .enumerate()
                .map(|(at, sources)| {
                    let names: Vec<String> = sources.iter().map(|source| name(*source)).collect();
                    let from: Vec<(&str, bool)> = names.iter().map(|name| (name.as_str(), false)).collect();
                    let (own, volume) = (format!("/own/{at}"), name(at));
                    container(&name(at), &from, &[(&volume, &own), (&volume, "/shared")])
                })
                .collect();
            let in_a_circle = (0..6).any(|at| is_its_own_source(at, &sources));
            prop_assert_eq!(check_volumes_from(&containers).is_err(), in_a_circle);
            for (at, own_sources) in sources.iter().enumerate() {
                let mounted = mounted(&name(at), &containers);
                let paths: BTreeSet<&String> = mounted.iter().map(|(path, _, _)| path).collect();
                prop_assert_eq!(paths.len(), mounted.len(), "each place once");
                prop_assert!(mounted.contains(&("/shared".to_owned(), name(at), false)), "its own comes first");
                let direct = |source: &usize| paths.contains(&format!("/own/{source}"));
                prop_assert!(own_sources.iter().all(direct), "{:?}", mounted);
            }
        }
    }

    #[test]
    fn in_a_circle() {
        let containers = [
            container("a", &[("b", false)], &[]),
            container("b", &[("c", false)], &[]),
            container("c", &[("a", false)], &[]),
        ];
        assert!(check_volumes_from(&containers).is_err());
        assert_eq!(mounted("a", &containers), []);
    }
}
