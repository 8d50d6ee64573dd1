//! One blob to one file: hashed on the way, taken up again where it broke off.

use std::fs::File;
use std::path::Path;

use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};

use crate::config::Retry;
use crate::digest::Hasher;
use crate::error::{Cause, CauseKind, local};
use crate::flights::Failure;
use crate::manifest::Descriptor;
use crate::registry::{Registry, Source, unexpected_digest};
use crate::retry::Attempts;

const WRITE_BYTES: usize = 512 << 10;

/// Downloads `blob` into a nameless file on the disk of `dir`: whatever happens, it leaves nothing. Returns it rewound,
/// verified, and how many attempts that took.
pub(crate) async fn download(
    registry: &Registry,
    source: &Source,
    blob: &Descriptor,
    dir: &Path,
    retry: Retry,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(File, u32), Failure> {
    let at_once = |cause| Failure { attempts: 1, cause };
    let file = tempfile::tempfile_in(dir).map_err(|error| at_once(local("create blob", &error)))?;
    let mut partial = Partial {
        file: BufWriter::with_capacity(WRITE_BYTES, tokio::fs::File::from_std(file)),
        hasher: Hasher::new(),
        written: 0,
    };
    let mut attempts = Attempts::new(retry);
    let mut furthest = 0;
    loop {
        let result = partial.fill(registry, source, blob, progress).await;
        if partial.written >= furthest + retry.progress_bytes {
            attempts.progress();
        }
        furthest = furthest.max(partial.written);
        match result {
            Ok(()) => break,
            Err(cause) => {
                if cause.kind == CauseKind::Corrupt {
                    partial.restart().await.map_err(at_once)?;
                }
                attempts.failed(cause).await?;
            }
        }
    }
    let file = partial.file.into_inner().into_std().await;
    Ok((file, attempts.made + 1))
}

struct Partial {
    file: BufWriter<tokio::fs::File>,
    hasher: Hasher,
    written: u64,
}

impl Partial {
    async fn fill(
        &mut self,
        registry: &Registry,
        source: &Source,
        blob: &Descriptor,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Cause> {
        if self.written < blob.size || blob.size == 0 {
            let mut stream = registry.open_blob(source, &blob.digest, self.written).await?;
            if stream.offset != self.written {
                self.restart().await?;
            }
            while let Some(chunk) = stream.chunk().await? {
                let chunk = chunk.as_ref();
                if self.written + chunk.len() as u64 > blob.size {
                    return Err(wrong_size(blob, "more"));
                }
                self.file.write_all(chunk).await.map_err(|error| local("write blob", &error))?;
                self.hasher.update(chunk);
                self.written += chunk.len() as u64;
                progress(self.written);
            }
        }
        if self.written < blob.size {
            let text =
                format!("failed to copy: unexpected EOF after {} of {} bytes", self.written, blob.size);
            return Err(Cause::new(CauseKind::Unreachable, text));
        }
        let actual = std::mem::replace(&mut self.hasher, Hasher::new()).finish();
        if actual != blob.digest {
            return Err(unexpected_digest(&format!("layer-{}", blob.digest), &actual, &blob.digest));
        }
        self.file.flush().await.map_err(|error| local("write blob", &error))?;
        self.file.rewind().await.map(drop).map_err(|error| local("read blob", &error))
    }

    async fn restart(&mut self) -> Result<(), Cause> {
        let failed = |error: std::io::Error| local("write blob", &error);
        self.file.rewind().await.map_err(failed)?;
        self.file.get_ref().set_len(0).await.map_err(failed)?;
        self.hasher = Hasher::new();
        self.written = 0;
        Ok(())
    }
}

fn wrong_size(blob: &Descriptor, how: &str) -> Cause {
    let text = format!(
        "failed commit on ref \"layer-{}\": failed size validation: {how} than {} bytes: failed precondition",
        blob.digest, blob.size
    );
    Cause::new(CauseKind::Corrupt, text)
}
