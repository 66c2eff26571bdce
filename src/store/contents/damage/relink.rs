//! Leading further names to the content that was repaired, and keeping the list.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fail::fail_point;

use super::directory::Held;
use crate::fs::stat;
use crate::oci::Digest;
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;

impl Contents {
    /// Leads a further name to the whole content of the digest, durably, if it leads to a damaged one. `false`: there is no
    /// whole one, or no such name.
    pub(in crate::store) fn relink(&self, name: &Path, digest: &Digest) -> Result<bool, StoreError> {
        let _locked = self.lock(digest);
        let Some(found) = stat(name)? else { return Ok(false) };
        if !self.damage.is_listed(digest, found.ino()) {
            return Ok(true);
        }
        let content = self.layout.content(digest);
        if stat(&content)?.is_none_or(|whole| self.damage.is_listed(digest, whole.ino())) {
            return Ok(false);
        }
        self.replace_name(&content, name, digest)?;
        self.disk.sync_directory_of(name)?;
        fail_point!("store::damage::after_relink");
        self.drop_mended(digest, &[]);
        Ok(true)
    }

    /// Comes back to files that could not be read, and makes the list agree with its directory. Blocking.
    pub(in crate::store) fn keep_damage_list(&self, now: Instant) {
        self.read_suspects_again(now);
        self.read_damaged(Held::WithListed);
        if self.damage.is_empty() {
            return;
        }
        self.write_down_what_was_not();
        for digest in self.damage.digests() {
            let _locked = self.lock(&digest);
            self.drop_mended(&digest, &[]);
        }
    }

    /// The digests that have a whole content beside damaged files, with the inodes of these: names that lead to them can be
    /// led to the whole one. Blocking.
    pub(in crate::store) fn mendable(&self) -> HashMap<Digest, Vec<u64>> {
        let is_whole = |digest: &Digest| matches!(stat(&self.layout.content(digest)), Ok(Some(at)) if !self.damage.is_listed(digest, at.ino()));
        let digests = self.damage.digests().into_iter().filter(is_whole);
        digests.map(|digest| (digest, self.damage.inodes(&digest))).collect()
    }

    /// Takes files off the list that no further name leads to, as whoever knows all of them found. Blocking.
    pub(in crate::store) fn drop_nameless(&self, files: &HashMap<Digest, Vec<u64>>) {
        for (digest, inodes) in files {
            let _locked = self.lock(digest);
            self.drop_mended(digest, inodes);
        }
    }

    /// Entries that could not be written down get their names.
    fn write_down_what_was_not(&self) {
        for digest in self.damage.digests() {
            let _locked = self.lock(&digest);
            let unnamed: Vec<(u64, PathBuf)> = self.damage.entries(&digest, |entries| {
                let waiting = entries.iter().filter(|entry| entry.name.is_none());
                waiting.filter_map(|entry| Some((entry.inode, entry.unnamed.as_ref()?.0.clone()))).collect()
            });
            for (inode, path) in unnamed {
                if matches!(stat(&path), Ok(Some(at)) if at.ino() == inode)
                    && let Err(error) = self.write_down(&digest, inode, &path)
                {
                    tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "a damaged content can't be noted on the disk yet");
                }
            }
        }
    }
}
