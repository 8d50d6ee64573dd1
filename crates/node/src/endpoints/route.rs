//! Which path is what. Pure.

use http::StatusCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V3,
    V4,
}

/// What a metadata request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Container,
    /// `/task`, and `/taskWithTags`, which is the same on Fargate.
    Task,
    ContainerStats,
    TaskStats,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// An empty id: none was given.
    Credentials {
        version: u8,
        id: String,
    },
    Metadata {
        version: Version,
        id: String,
        of: Of,
    },
    Protection {
        id: String,
    },
}

impl Route {
    pub(super) fn of(path: &str, query: Option<&str>) -> Option<Self> {
        if path == "/v1/credentials" {
            let id = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("id="));
            return Some(Self::Credentials { version: 1, id: id.unwrap_or_default().to_owned() });
        }
        if let Some(id) = path.strip_prefix("/v2/credentials/") {
            return Some(Self::Credentials { version: 2, id: id.to_owned() });
        }
        if let Some(rest) = path.strip_prefix("/api/") {
            let id = rest.strip_suffix("/task-protection/v1/state")?;
            return (!id.contains('/')).then(|| Self::Protection { id: id.to_owned() });
        }
        let (version, rest) = match (path.strip_prefix("/v3/"), path.strip_prefix("/v4/")) {
            (Some(rest), _) => (Version::V3, rest),
            (_, Some(rest)) => (Version::V4, rest),
            _ => return None,
        };
        let (id, of) = match rest.split_once('/') {
            None => (rest, Of::Container),
            Some((id, "task" | "taskWithTags")) => (id, Of::Task),
            Some((id, "stats")) => (id, Of::ContainerStats),
            Some((id, "task/stats")) => (id, Of::TaskStats),
            Some(_) => return None,
        };
        Some(Self::Metadata { version, id: id.to_owned(), of })
    }
}

/// The agent's answer to an id that no container of the task has.
pub(super) fn unknown(version: Version, of: Of, id: &str) -> (StatusCode, String) {
    let what = match of {
        Of::Container => "container metadata",
        Of::Task => "task metadata",
        Of::ContainerStats => "container stats",
        Of::TaskStats => "task stats",
    };
    // The agent looks up the task first wherever it needs both.
    let (thing, name) =
        if of == Of::Container { ("container ID", "docker ID") } else { ("task arn", "task Arn") };
    let (number, status) = match version {
        Version::V3 => (3, StatusCode::BAD_REQUEST),
        Version::V4 => (4, StatusCode::NOT_FOUND),
    };
    let message = format!(
        "V{number} {what} handler: unable to get {thing} from request: unable to get {name} from v3 endpoint ID: {id}"
    );
    (status, message)
}

/// Where a path with empty, `.` or `..` parts really leads; `None`: it is clean.
pub(super) fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(version: Version, of: Of) -> Option<Route> {
        Some(Route::Metadata { version, id: "a-1".into(), of })
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/v4/a-1", metadata(Version::V4, Of::Container)),
            ("/v4/a-1/task", metadata(Version::V4, Of::Task)),
            ("/v4/a-1/taskWithTags", metadata(Version::V4, Of::Task)),
            ("/v4/a-1/stats", metadata(Version::V4, Of::ContainerStats)),
            ("/v4/a-1/task/stats", metadata(Version::V4, Of::TaskStats)),
            ("/v3/a-1", metadata(Version::V3, Of::Container)),
            ("/v3/a-1/task/stats", metadata(Version::V3, Of::TaskStats)),
            ("/v4/a-1/", None),
            ("/v4/a-1/tasks", None),
            ("/v5/a-1", None),
            ("/", None),
            ("/latest/meta-data/", None),
            ("/v2/credentials", None),
            ("/v2/credentials/", Some(Route::Credentials { version: 2, id: String::new() })),
            ("/v2/credentials/x/y", Some(Route::Credentials { version: 2, id: "x/y".into() })),
            ("/v1/credentials", Some(Route::Credentials { version: 1, id: String::new() })),
            ("/api/a-1/task-protection/v1/state", Some(Route::Protection { id: "a-1".into() })),
            ("/api/a/b/task-protection/v1/state", None),
            ("/api/a-1/task-protection/v2/state", None),
        ] {
            assert_eq!(Route::of(path, None), expected, "{path}");
        }
        let by_query = Route::Credentials { version: 1, id: "x".into() };
        assert_eq!(Route::of("/v1/credentials", Some("a=b&id=x")), Some(by_query));
    }

    #[test]
    fn the_agents_words_for_unknown_ids() {
        let (status, message) = unknown(Version::V4, Of::Container, "x");
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(
            message,
            "V4 container metadata handler: unable to get container ID from request: unable to get docker ID from v3 endpoint ID: x"
        );
        let (status, message) = unknown(Version::V4, Of::TaskStats, "x");
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(
            message,
            "V4 task stats handler: unable to get task arn from request: unable to get task Arn from v3 endpoint ID: x"
        );
        let (status, message) = unknown(Version::V3, Of::Task, "x");
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(
            message,
            "V3 task metadata handler: unable to get task arn from request: unable to get task Arn from v3 endpoint ID: x"
        );
    }

    #[test]
    fn unclean_paths_are_moved() {
        assert_eq!(cleaned("/v4/a/task"), None);
        assert_eq!(cleaned("/"), None);
        assert_eq!(cleaned("/v2/credentials/"), None);
        assert_eq!(cleaned("//v4//a//task").as_deref(), Some("/v4/a/task"));
        assert_eq!(cleaned("/v4/./a/../b").as_deref(), Some("/v4/b"));
        assert_eq!(cleaned("/../..").as_deref(), Some("/"));
    }
}
