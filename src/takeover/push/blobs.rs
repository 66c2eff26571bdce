//! The blobs of a repository: asked for, mounted from another repository, or sent from where they lie and hashed on the way.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::asking::soon;
use super::{Failed, Push, State, in_parallel};
use crate::bundle::Found;
use crate::oci::{Digest, Hasher};
use crate::takeover::fault::Fault;
use crate::takeover::source::Bytes as Source;
use crate::takeover::survey::{Blob, Survey};
use crate::telemetry::{UpstreamCause, with_causes};
use crate::upstream::{BegunUpload, BodySender, UpstreamError, forwarded_body};

/// Bytes read and given on at once.
const READ_BYTES: usize = 1 << 20;
/// How long the registry may take none of the bytes that are there for it.
const STALL: Duration = Duration::from_secs(120);
/// How often an upload is begun anew that the registry does not know any more, or whose token ended on the way.
const TRIES: u32 = 3;

/// What came of sending a blob.
type Sent = Result<Outcome, Fault>;

enum Outcome {
    Mounted,
    Sent,
}

impl Push<'_> {
    /// Has the registry have what the manifests of a repository name; what it can't have is noted as bad.
    pub(super) async fn blobs(&self, name: &str, survey: &Survey) -> Result<(), Failed> {
        let mut seen = HashSet::new();
        let all = survey.nodes.iter().flat_map(|node| &node.blobs).copied();
        let blobs: Vec<Blob> = all.filter(|blob| seen.insert(blob.digest)).collect();
        in_parallel(blobs, |blob| async move {
            match self.blob(name, blob).await {
                Err(Failed::Content(fault)) => {
                    self.settle(blob, false);
                    let State { report, bad, .. } = &mut *self.state.borrow_mut();
                    report.blobs.left += 1;
                    bad.insert(blob.digest, fault);
                    Ok(())
                }
                done => done,
            }
        })
        .await
    }

    async fn blob(&self, name: &str, blob: Blob) -> Result<(), Failed> {
        let upstream = &self.target.upstream;
        let is_there = self.ask(|| upstream.has_blob(name, (&blob.digest, blob.size), soon())).await?;
        if is_there {
            self.settle(blob, false);
            let State { report, held, .. } = &mut *self.state.borrow_mut();
            report.blobs.present += 1;
            held.entry(blob.digest).or_insert_with(|| name.to_owned());
            return Ok(());
        }
        if self.options.dry_run {
            return self.look_at(name, blob);
        }
        let from = self.state.borrow().held.get(&blob.digest).filter(|from| *from != name).cloned();
        let outcome = self.ask(|| self.send(name, blob, from.as_deref())).await?.map_err(Failed::Content)?;
        self.settle(blob, matches!(outcome, Outcome::Sent));
        let State { report, held, .. } = &mut *self.state.borrow_mut();
        report.blobs.taken += 1;
        match outcome {
            Outcome::Mounted => report.mounted += 1,
            Outcome::Sent => report.bytes += blob.size,
        }
        held.insert(blob.digest, name.to_owned());
        Ok(())
    }

    /// For a dry run: whether it could be sent.
    fn look_at(&self, name: &str, blob: Blob) -> Result<(), Failed> {
        let found = self.source.length(name, &blob.descriptor()).map_err(Failed::Content)?;
        let found = found.ok_or(Failed::Content(Fault::BlobMissing(blob.digest)))?;
        if found != blob.size {
            return Err(Failed::Content(Fault::BlobLength { digest: blob.digest, expected: blob.size, found }));
        }
        let State { report, held, .. } = &mut *self.state.borrow_mut();
        report.blobs.taken += 1;
        if held.insert(blob.digest, name.to_owned()).is_none() {
            report.bytes += blob.size;
        }
        Ok(())
    }

    /// Begins an upload and sends the bytes, once; where the registry lost the upload, or a token ended, again.
    async fn send(&self, name: &str, blob: Blob, from: Option<&str>) -> Result<Sent, UpstreamError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mount = from.map(|from| (&blob.digest, from));
            let upload = match self.target.upstream.begin_upload(name, mount, soon()).await? {
                BegunUpload::Mounted => return Ok(Ok(Outcome::Mounted)),
                BegunUpload::Begun(upload) => upload,
            };
            let bytes = match self.open(name, blob) {
                Ok(bytes) => bytes,
                Err(fault) => return Ok(Err(fault)),
            };
            let (sender, body) = forwarded_body();
            let given = Given::new(Arc::clone(&self.sent));
            let mut feeding = pin!(feed(bytes, blob, sender, Arc::clone(&given.bytes), Arc::clone(&self.sent)));
            let whole = (&blob.digest, blob.size);
            let mut sending = pin!(self.target.upstream.finish_upload(name, &upload, whole, body));
            let sent = tokio::select! {
                // What the source lacks says more than that its body broke off.
                biased;
                fed = &mut feeding => match fed {
                    Ok(()) => sending.await,
                    Err(fault) => return Ok(Err(fault)),
                },
                sent = &mut sending => sent,
            };
            match sent {
                Ok(()) => {
                    given.keep();
                    return Ok(Ok(Outcome::Sent));
                }
                Err(error) if tries < TRIES && is_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&self, name: &str, blob: Blob) -> Result<Source, Fault> {
        let opened = self.source.open(name, &blob.descriptor())?.ok_or(Fault::BlobMissing(blob.digest))?;
        let unreadable = || Fault::unreadable(format!("blob {}", blob.digest));
        let found = match &opened {
            Source::Carried(found) => found.length,
            Source::Made(bytes) => bytes.len() as u64,
            Source::File(file, _) => file.metadata().map_err(unreadable())?.len(),
            Source::Sent(_) => blob.size,
        };
        if found != blob.size {
            return Err(Fault::BlobLength { digest: blob.digest, expected: blob.size, found });
        }
        Ok(opened)
    }
}

/// Whether the registry may take the blob if its upload is begun anew.
fn is_lost(error: &UpstreamError) -> bool {
    matches!(error.cause(), UpstreamCause::Unauthorized | UpstreamCause::NotFound)
}

/// Bytes that are counted as sent, and are not if they were sent in vain.
struct Given {
    bytes: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Given {
    fn new(sent: Arc<AtomicU64>) -> Self {
        Self { bytes: Arc::default(), sent }
    }

    fn keep(self) {
        self.bytes.store(0, Ordering::Relaxed);
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.sent.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Gives the bytes of a blob to a body. The last piece is given when all of them are the digest's; else the body breaks off.
async fn feed(
    bytes: Source,
    blob: Blob,
    sender: BodySender,
    given: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
) -> Result<(), Fault> {
    let mut feeder = Feeder { sender, hasher: Hasher::new(blob.digest.algorithm()), held: None, given, sent };
    let unreadable = move || Fault::unreadable(format!("blob {}", blob.digest));
    match bytes {
        Source::Made(bytes) => {
            feeder.give(Bytes::copy_from_slice(&bytes)).await;
            feeder.end(blob.digest).await
        }
        Source::Sent(mut from) => {
            while let Some(bytes) = from.chunk().await.map_err(|fault| Fault::Registry(with_causes(&fault)))? {
                if !feeder.give(bytes).await {
                    return Ok(());
                }
            }
            feeder.end(blob.digest).await
        }
        Source::Carried(_) | Source::File(..) => {
            let handle = Handle::current();
            let work = move || -> Result<(), Fault> {
                let read = match &bytes {
                    Source::File(file, _) => read(file, 0, blob.size, &mut |bytes| handle.block_on(feeder.give(bytes))),
                    Source::Carried(found) => read_found(found, &mut |bytes| handle.block_on(feeder.give(bytes))),
                    Source::Made(_) | Source::Sent(_) => Ok(false),
                };
                match read.map_err(unreadable())? {
                    true => handle.block_on(feeder.end(blob.digest)),
                    false => Ok(()),
                }
            };
            // It runs to its end if nobody waits any more: soon, as nobody takes the bytes.
            match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(error) => Err(unreadable()(io::Error::other(error))),
            }
        }
    }
}

/// Reads the parts of a content; `false`: nobody takes them.
fn read_found(found: &Found, give: &mut dyn FnMut(Bytes) -> bool) -> io::Result<bool> {
    for piece in found.pieces() {
        let piece = piece?;
        if !read(&piece.file, piece.at, piece.length, give)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(file: &File, from: u64, length: u64, give: &mut dyn FnMut(Bytes) -> bool) -> io::Result<bool> {
    let (mut at, end) = (from, from + length);
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut piece = vec![0; most];
        file.read_exact_at(&mut piece, at)?;
        at += most as u64;
        if !give(piece.into()) {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Feeder {
    sender: BodySender,
    hasher: Hasher,
    /// The last piece, which is given when there is another one, or all are proven.
    held: Option<Bytes>,
    given: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Feeder {
    /// Whether more is wanted.
    async fn give(&mut self, bytes: Bytes) -> bool {
        self.hasher.update(&bytes);
        match self.held.replace(bytes) {
            Some(before) => self.pass_on(before).await,
            None => true,
        }
    }

    async fn pass_on(&self, bytes: Bytes) -> bool {
        let length = bytes.len() as u64;
        let is_taken = timeout(STALL, self.sender.send(bytes)).await.is_ok_and(|sent| sent.is_ok());
        if is_taken {
            self.given.fetch_add(length, Ordering::Relaxed);
            self.sent.fetch_add(length, Ordering::Relaxed);
        }
        is_taken
    }

    async fn end(mut self, digest: Digest) -> Result<(), Fault> {
        let last = self.held.take();
        let found = std::mem::replace(&mut self.hasher, Hasher::new(digest.algorithm())).finish();
        if found != digest {
            return Err(Fault::BlobBytes { expected: digest, found: Box::new(found) });
        }
        if let Some(last) = last
            && !self.pass_on(last).await
        {
            return Ok(());
        }
        // Whoever waits for the answer hears what became of it.
        let _ = timeout(STALL, self.sender.end()).await;
        Ok(())
    }
}
