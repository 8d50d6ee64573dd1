//! What is mounted in a container: the task's volumes, and of `volumesFrom` also the `VOLUME`s of the source's image,
//! which only the node knows. Pure.
//!
//! A `VOLUME` that others take is made one of the task's, under a name that no definition can have; the source mounts it
//! too, and as it starts first, its image's files are in it. What nobody takes stays the container's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ferrogate_nodeapi::ContainerAssignment;
use ferrogate_sandbox::VolumeMount;

/// `declared`: the `VOLUME`s of a container's image.
pub(super) fn of(
    container: &ContainerAssignment,
    all: &[ContainerAssignment],
    declared: &dyn Fn(&str) -> Vec<String>,
) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = container
        .mount_points
        .iter()
        .map(|mount| VolumeMount {
            volume: mount.volume.clone(),
            container_path: mount.container_path.clone(),
            read_only: mount.read_only,
        })
        .collect();
    let is_source =
        all.iter().any(|other| other.volumes_from.iter().any(|from| from.container == container.name));
    let mut of_images = BTreeMap::new();
    inherit(container, all, declared, all.len(), &mut of_images);
    if is_source {
        own(container, all, declared, &mut of_images);
    }
    for mount in &container.mount_points {
        of_images.remove(&place(&mount.container_path));
    }
    for tmpfs in &container.tmpfs {
        of_images.remove(&place(&tmpfs.container_path));
    }
    mounts.extend(of_images.into_values());
    mounts
}

type ByPlace = BTreeMap<PathBuf, VolumeMount>;

/// `/data/` and `/data` are one place.
fn place(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// `depth`: a chain of sources is no longer than there are containers.
fn inherit(
    container: &ContainerAssignment,
    all: &[ContainerAssignment],
    declared: &dyn Fn(&str) -> Vec<String>,
    depth: usize,
    into: &mut ByPlace,
) {
    for from in &container.volumes_from {
        let source = all.iter().find(|other| other.name == from.container);
        let Some(source) = source.filter(|_| depth > 0) else { continue };
        let mut taken = ByPlace::new();
        inherit(source, all, declared, depth - 1, &mut taken);
        own(source, all, declared, &mut taken);
        for mount in taken.values_mut().filter(|_| from.read_only) {
            mount.read_only = true;
        }
        into.extend(taken);
    }
}

/// Those of its own image, where it has nothing else mounted.
fn own(
    container: &ContainerAssignment,
    all: &[ContainerAssignment],
    declared: &dyn Fn(&str) -> Vec<String>,
    into: &mut ByPlace,
) {
    let Some(number) = all.iter().position(|other| other.name == container.name) else { return };
    for (index, path) in declared(&container.name).into_iter().enumerate() {
        let at = place(&path);
        let mounted = container.mount_points.iter().any(|mount| place(&mount.container_path) == at)
            || container.tmpfs.iter().any(|tmpfs| place(&tmpfs.container_path) == at);
        // What it takes itself is there before its image's.
        if !mounted && !into.contains_key(&at) {
            // A volume's name in a definition has no dot.
            let volume = format!("image.{number}.{index}");
            into.insert(at, VolumeMount { volume, container_path: path, read_only: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use ferrogate_nodeapi::{MountPoint, Tmpfs, VolumesFrom};

    use super::*;

    fn container(name: &str, from: &[(&str, bool)], mounts: &[(&str, &str)]) -> ContainerAssignment {
        let from = from.iter().map(|(container, read_only)| VolumesFrom {
            container: (*container).into(),
            read_only: *read_only,
        });
        let mounts = mounts.iter().map(|(volume, path)| MountPoint {
            volume: (*volume).into(),
            container_path: (*path).into(),
            read_only: false,
        });
        ContainerAssignment {
            name: name.into(),
            volumes_from: from.collect(),
            mount_points: mounts.collect(),
            ..Default::default()
        }
    }

    fn shown(all: &[ContainerAssignment], name: &str, declared: &dyn Fn(&str) -> Vec<String>) -> Vec<String> {
        let container = all.iter().find(|one| one.name == name).expect("there");
        let text = |mount: VolumeMount| {
            let access = if mount.read_only { " ro" } else { "" };
            format!("{} {}{access}", mount.volume, mount.container_path)
        };
        of(container, all, declared).into_iter().map(text).collect()
    }

    #[test]
    fn the_volumes_of_an_image_go_with_the_others() {
        let declared = |name: &str| match name {
            "a" => vec!["/data/".to_owned(), "/mounted".into()],
            "b" => vec!["/own".into()],
            _ => vec!["/data".into()],
        };
        let mut all = [
            container("a", &[], &[("v", "/mounted")]),
            container("b", &[("a", true)], &[("v", "/mounted")]),
            container("c", &[("b", false)], &[]),
            container("alone", &[], &[]),
        ];
        assert_eq!(shown(&all, "a", &declared), ["v /mounted", "image.0.0 /data/"]);
        assert_eq!(shown(&all, "b", &declared), ["v /mounted", "image.0.0 /data/ ro", "image.1.0 /own"]);
        // By way of another, and before what its own image has there; nobody takes from it.
        assert_eq!(shown(&all, "c", &declared), ["image.0.0 /data/ ro", "image.1.0 /own"]);
        assert_eq!(shown(&all, "alone", &declared), [""; 0]);
        // What it says itself is over all that it takes.
        all[2].tmpfs = vec![Tmpfs { container_path: "/data".into(), size_mib: 1, mount_options: Vec::new() }];
        all[2].mount_points =
            vec![MountPoint { volume: "w".into(), container_path: "/own/".into(), read_only: false }];
        assert_eq!(shown(&all, "c", &declared), ["w /own/"]);
    }

    #[test]
    fn sources_in_a_circle_end() {
        let declared = |_: &str| vec!["/data".to_owned()];
        let all = [container("a", &[("b", false)], &[]), container("b", &[("a", false)], &[])];
        assert_eq!(shown(&all, "a", &declared).len(), 1);
    }
}
