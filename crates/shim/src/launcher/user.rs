//! Who a process runs as: `name`, `uid`, `name:group`, `uid:gid`, resolved by the container's own files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Longest `/etc/passwd` or `/etc/group` looked at.
const DATABASE_BYTES_MAX: u64 = 4 << 20;
/// What the kernel takes.
const GROUPS_MAX: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// For `HOME`.
    pub(super) home: String,
}

/// Looks the user up below the calling process's root, which must be the container's by now.
pub(super) fn resolve(user: &str) -> Result<Identity, String> {
    let passwd =
        read("/etc/passwd").map_err(|error| format!("cannot read /etc/passwd in the container: {error}"))?;
    let group =
        read("/etc/group").map_err(|error| format!("cannot read /etc/group in the container: {error}"))?;
    resolve_in(user, &passwd, &group)
}

/// The home of a uid, `/` for one that has no entry.
pub(super) fn home_of(uid: u32) -> String {
    let passwd = read("/etc/passwd").unwrap_or_default();
    entries(&passwd).find(|entry| entry.uid == uid).map_or_else(root_home, |entry| home(&entry))
}

/// An image may put anything at that place: only a plain file is read, and not without end.
fn read(path: &str) -> io::Result<String> {
    let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(DATABASE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

fn home(entry: &Entry<'_>) -> String {
    if entry.home.is_empty() { root_home() } else { entry.home.to_owned() }
}

fn root_home() -> String {
    "/".to_owned()
}

/// name, gid, members
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn resolve_in(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    // A name wins over a number that looks like it, as in Docker.
    let entry = entries(passwd)
        .find(|entry| entry.name == name)
        .or_else(|| entries(passwd).find(|entry| Some(entry.uid) == number));
    let mut identity = match (&entry, number) {
        (Some(entry), _) => {
            Identity { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home: home(entry) }
        }
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: root_home() },
        (None, None) => {
            return Err(format!("unable to find user {name}: no matching entries in passwd file"));
        }
    };
    match group_name {
        Some(wanted) => {
            let number: Option<u32> = wanted.parse().ok();
            let found = groups(group)
                .find(|(name, _, _)| *name == wanted)
                .or_else(|| groups(group).find(|(_, gid, _)| Some(*gid) == number))
                .map(|(_, gid, _)| gid);
            identity.gid = found
                .or(number)
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?;
        }
        None => {
            if let Some(entry) = &entry {
                let member = |members: &str| members.split(',').any(|member| member.trim() == entry.name);
                identity.groups = groups(group)
                    .filter(|(_, _, members)| member(members))
                    .map(|(_, gid, _)| gid)
                    .take(GROUPS_MAX)
                    .collect();
            }
        }
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\nbroken\n77:x:5:6::/num:\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:www,other\nweb:x:40:www\nbroken:x\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, String> {
        Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn every_spelling() {
        for (user, expected) in [
            ("", identity(0, 0, &[], "/root")),
            ("root", identity(0, 0, &[], "/root")),
            ("www", identity(33, 34, &[4, 40], "/var/www")),
            ("33", identity(33, 34, &[4, 40], "/var/www")),
            ("www:adm", identity(33, 4, &[], "/var/www")),
            ("www:99", identity(33, 99, &[], "/var/www")),
            ("www:", identity(33, 34, &[4, 40], "/var/www")),
            ("1000", identity(1000, 0, &[], "/")),
            ("1000:1001", identity(1000, 1001, &[], "/")),
            ("77", identity(5, 6, &[], "/num")),
        ] {
            assert_eq!(resolve_in(user, PASSWD, GROUP), expected, "{user:?}");
        }
    }

    #[test]
    fn the_unknown_is_named() {
        let error = resolve_in("nobody", PASSWD, GROUP).unwrap_err();
        assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
        assert!(resolve_in("www:nope", PASSWD, GROUP).unwrap_err().contains("group nope"));
        assert!(resolve_in("-1", PASSWD, GROUP).is_err());
    }

    proptest! {
        #[test]
        fn any_database_is_survived(user in ".{0,20}", passwd in "(.{0,30}\n){0,5}", group in "(.{0,30}\n){0,5}") {
            let _ = resolve_in(&user, &passwd, &group);
        }
    }
}
