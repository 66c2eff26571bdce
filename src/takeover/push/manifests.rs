//! The manifests of a repository: those without children at once, then the others, each behind its children.

use bytes::Bytes;

use super::asking::soon;
use super::{Failed, Push, in_parallel};
use crate::oci::{Digest, Manifest, Reference};
use crate::takeover::fault::Fault;
use crate::takeover::survey::Survey;

/// A manifest as it is sent.
pub(super) struct Content {
    pub(super) bytes: Bytes,
    pub(super) media_type: String,
}

impl Push<'_> {
    /// Has the registry have the manifests that are whole; what it refuses is noted in the survey.
    pub(super) async fn manifests(&self, name: &str, survey: &mut Survey) -> Result<(), Failed> {
        let refused = std::cell::RefCell::new(Vec::new());
        let leaves: Vec<Digest> = survey.whole().filter(|node| node.is_leaf()).map(|node| node.digest).collect();
        in_parallel(leaves, |digest| {
            let refused = &refused;
            async move {
                match self.manifest(name, digest).await {
                    Err(Failed::Content(fault)) => {
                        refused.borrow_mut().push((digest, fault));
                        Ok(())
                    }
                    done => done,
                }
            }
        })
        .await?;
        survey.faults.extend(refused.into_inner());
        survey.judge(&mut |_| None);
        let others: Vec<Digest> = survey.whole().filter(|node| !node.is_leaf()).map(|node| node.digest).collect();
        for digest in others {
            if survey.faults.contains_key(&digest) {
                continue;
            }
            match self.manifest(name, digest).await {
                Err(Failed::Content(fault)) => {
                    survey.faults.insert(digest, fault);
                    survey.judge(&mut |_| None);
                }
                done => done?,
            }
        }
        self.state.borrow_mut().report.manifests.left += survey.faults.len() as u64;
        Ok(())
    }

    async fn manifest(&self, name: &str, digest: Digest) -> Result<(), Failed> {
        let (upstream, reference) = (&self.target.upstream, Reference::Digest(digest));
        let is_there = self.ask(|| upstream.has_manifest(name, &reference, soon())).await?.is_some();
        if !is_there && !self.options.dry_run {
            let content = self.content(name, digest).map_err(Failed::Content)?;
            self.put(name, &reference, (&content, digest)).await?;
        }
        let state = &mut *self.state.borrow_mut();
        let tally = &mut state.report.manifests;
        *(if is_there { &mut tally.present } else { &mut tally.taken }) += 1;
        state.far.manifests += 1;
        Ok(())
    }

    /// Puts a manifest under its digest or a tag.
    pub(super) async fn put(
        &self,
        name: &str,
        reference: &Reference,
        (content, digest): (&Content, Digest),
    ) -> Result<(), Failed> {
        let upstream = &self.target.upstream;
        let put = || upstream.put_manifest(name, reference, (&content.media_type, &content.bytes, &digest), soon());
        match self.ask(put).await {
            // It lacks something that it said it has, or has another name for that: it is this manifest's fault alone.
            Err(Failed::Repository(error)) if error.status() == Some(404) => {
                Err(Failed::Content(Fault::Registry(error.to_string())))
            }
            done => done,
        }
    }

    pub(super) fn content(&self, name: &str, digest: Digest) -> Result<Content, Fault> {
        let bytes = self.source.manifest(name, &digest)?;
        let kept = Manifest::kept(&bytes).map_err(|cause| Fault::Invalid { digest, cause })?;
        let media_type = kept.media_type().into_owned();
        Ok(Content { media_type, bytes: bytes.into() })
    }
}
