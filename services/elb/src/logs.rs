//! Access and connection logs: lines are kept in a file of their window, and become an object when it is over.
//!
//! Spool: `<balancer id>.<zone>.<access|conn>.<window's end>.log`; objects are files `<bucket>/<key>`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

/// Of one window of one node; what comes beyond it is dropped, and said (ELB: "log delivery is best effort").
const WINDOW_BYTES_MAX: u64 = 256 << 20;

/// The folder of log lines cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the folder of load balancers' log lines {path} cannot be used")]
pub struct LogsError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

pub(crate) struct AccessLogs {
    spool: PathBuf,
    objects: PathBuf,
}

/// A window of one node's log, from its file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spooled {
    pub(crate) file: PathBuf,
    pub(crate) balancer_id: String,
    pub(crate) zone: String,
    pub(crate) connection: bool,
    pub(crate) end: Timestamp,
}

impl AccessLogs {
    pub(crate) fn open(spool: PathBuf, objects: PathBuf) -> Result<Self, LogsError> {
        fs::create_dir_all(&spool).map_err(|source| LogsError { path: spool.clone(), source })?;
        Ok(Self { spool, objects })
    }

    /// Blocks on the disk.
    pub(crate) fn append(
        &self,
        balancer_id: &str,
        zone: &str,
        connection: bool,
        end: Timestamp,
        lines: &[String],
    ) -> io::Result<()> {
        let kind = if connection { "conn" } else { "access" };
        let path = self.spool.join(format!("{balancer_id}.{zone}.{kind}.{}.log", end.as_second()));
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if file.metadata()?.len() >= WINDOW_BYTES_MAX {
            tracing::warn!(path = %path.display(), lines = lines.len(), "log lines are dropped: the window is full");
            return Ok(());
        }
        let mut bytes = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            bytes.push_str(line.trim_end_matches('\n'));
            bytes.push('\n');
        }
        file.write_all(bytes.as_bytes())
    }

    pub(crate) fn spooled(&self) -> io::Result<Vec<Spooled>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.spool)? {
            let file = entry?.path();
            match parse(&file) {
                Some(found) => all.push(found),
                None => tracing::warn!(file = %file.display(), "not a file of log lines"),
            }
        }
        Ok(all)
    }

    /// Makes the window an object and forgets it. A crash in between leaves the lines, never half an object.
    pub(crate) fn publish(&self, spooled: &Spooled, bucket: &str, key: &str) -> io::Result<()> {
        let object = self.objects.join(bucket).join(key);
        let dir = object.parent().unwrap_or(&self.objects);
        fs::create_dir_all(dir)?;
        let part = object.with_extension("part");
        let mut encoder = GzEncoder::new(File::create(&part)?, Compression::fast());
        io::copy(&mut BufReader::new(File::open(&spooled.file)?), &mut encoder)?;
        encoder.finish()?.sync_all()?;
        fs::rename(&part, &object)?;
        self.forget(spooled)
    }

    /// Nobody wants it any more.
    pub(crate) fn forget(&self, spooled: &Spooled) -> io::Result<()> {
        fs::remove_file(&spooled.file)
    }
}

fn parse(file: &Path) -> Option<Spooled> {
    let name = file.file_name()?.to_str()?.strip_suffix(".log")?;
    let mut parts = name.split('.');
    let (balancer_id, zone) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let connection = match parts.next()? {
        "conn" => true,
        "access" => false,
        _ => return None,
    };
    let end = Timestamp::from_second(parts.next()?.parse().ok()?).ok()?;
    Some(Spooled { file: file.to_owned(), balancer_id, zone, connection, end })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_become_an_object() {
        let dir = tempfile::tempdir().unwrap();
        let logs = AccessLogs::open(dir.path().join("spool"), dir.path().join("objects")).unwrap();
        let end = Timestamp::from_second(300).unwrap();
        logs.append("b", "us-east-1a", false, end, &["one".into(), "two\n".into()]).unwrap();
        logs.append("b", "us-east-1a", false, end, &["three".into()]).unwrap();
        let spooled = logs.spooled().unwrap();
        assert_eq!(spooled.len(), 1);
        assert_eq!(
            (spooled[0].zone.as_str(), spooled[0].connection, spooled[0].end),
            ("us-east-1a", false, end)
        );
        logs.publish(&spooled[0], "bucket", "a/b.log.gz").unwrap();
        let mut text = String::new();
        let object = File::open(dir.path().join("objects/bucket/a/b.log.gz")).unwrap();
        flate2::read::GzDecoder::new(object).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\nthree\n");
        assert!(logs.spooled().unwrap().is_empty());
    }
}
