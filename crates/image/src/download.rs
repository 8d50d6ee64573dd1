//! One blob from the registry into a pipe: hashed on the way, taken up again where it broke off.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::config::Slowest;
use crate::digest::Hasher;
use crate::error::{Cause, CauseKind};
use crate::flights::Failure;
use crate::manifest::Descriptor;
use crate::pipe::Inlet;
use crate::registry::{BlobStream, Registry, Source, unexpected_digest};
use crate::retry::Attempts;

/// Why a download did not come to its end.
pub(crate) enum Broken {
    /// What came is wrong: whatever was made of it is to be thrown away, and all of it asked for anew.
    Corrupt(Cause),
    Over(Failure),
}

/// Downloads `blob` into the pipe, which ends well only after the digest was right. Should the reader go, the rest is
/// still hashed: bytes that cannot be unpacked may be wrong ones.
pub(crate) async fn download(
    registry: &Registry,
    source: &Source,
    blob: &Descriptor,
    attempts: &mut Attempts,
    inlet: Inlet,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Broken> {
    let mut partial = Partial { inlet: Some(inlet), hasher: Hasher::new(), passed: 0, progress };
    let mut furthest = 0;
    loop {
        let result = partial.fill(registry, source, blob).await;
        if partial.passed >= furthest + attempts.retry.progress_bytes {
            attempts.progress();
        }
        furthest = furthest.max(partial.passed);
        match result {
            Ok(()) => break,
            Err(cause) if cause.kind == CauseKind::Corrupt => return Err(Broken::Corrupt(cause)),
            Err(cause) => attempts.failed(cause).await.map_err(Broken::Over)?,
        }
    }
    let actual = partial.hasher.finish();
    if actual != blob.digest {
        let name = format!("layer-{}", blob.digest);
        return Err(Broken::Corrupt(unexpected_digest(&name, &actual, &blob.digest)));
    }
    if let Some(inlet) = partial.inlet {
        inlet.end().await;
    }
    Ok(())
}

struct Partial<'a> {
    inlet: Option<Inlet>,
    hasher: Hasher,
    /// Bytes hashed and handed on.
    passed: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Partial<'_> {
    async fn fill(&mut self, registry: &Registry, source: &Source, blob: &Descriptor) -> Result<(), Cause> {
        if self.passed < blob.size || blob.size == 0 {
            let mut stream = registry.open_blob(source, blob, self.passed).await?;
            // A registry without Range sends again what is here; the digest tells whether it is the same.
            let mut skip = self.passed - stream.offset;
            let mut pace = Pace::new(registry.slowest());
            while let Some(mut chunk) = pace.chunk(&mut stream).await? {
                let known = skip.min(chunk.len() as u64);
                skip -= known;
                let chunk = chunk.split_off(known as usize);
                if self.passed + chunk.len() as u64 > blob.size {
                    return Err(wrong_size(blob));
                }
                self.pass(chunk).await;
            }
        }
        if self.passed < blob.size {
            let text = format!("failed to copy: unexpected EOF after {} of {} bytes", self.passed, blob.size);
            return Err(Cause::new(CauseKind::Unreachable, text));
        }
        Ok(())
    }

    async fn pass(&mut self, chunk: Bytes) {
        self.hasher.update(&chunk);
        self.passed += chunk.len() as u64;
        if let Some(inlet) = &self.inlet
            && !inlet.put(chunk).await
        {
            self.inlet = None;
        }
        (self.progress)(self.passed);
    }
}

/// Whether a registry sends fast enough: looked at once per window of waiting for it.
struct Pace {
    slowest: Slowest,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(slowest: Slowest) -> Self {
        Self { slowest, waited: Duration::ZERO, bytes: 0 }
    }

    async fn chunk(&mut self, stream: &mut BlobStream) -> Result<Option<Bytes>, Cause> {
        loop {
            let asked = Instant::now();
            let left = self.slowest.window.saturating_sub(self.waited);
            // A chunk that is there already is taken even if no time is left.
            let came = tokio::time::timeout(left, stream.chunk()).await;
            self.waited += asked.elapsed();
            if let Ok(chunk) = came {
                let chunk = chunk?;
                self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                return Ok(chunk);
            }
            let Slowest { bytes: least, window } = self.slowest;
            if self.bytes < least {
                let text = format!(
                    "failed to copy: httpReadSeeker: failed to read: the registry sent {} bytes in {} s, and at least \
                     {least} are expected: context deadline exceeded",
                    self.bytes,
                    window.as_secs_f32()
                );
                return Err(Cause::new(CauseKind::Unreachable, text));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }
}

fn wrong_size(blob: &Descriptor) -> Cause {
    let text = format!(
        "failed commit on ref \"layer-{}\": failed size validation: more than {} bytes: failed precondition",
        blob.digest, blob.size
    );
    Cause::new(CauseKind::Corrupt, text)
}
