//! A store with images that are each harmed in one way.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::super::*;
use crate::oci::UpstreamId;
use crate::store::Problem;

/// A way in which a store is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    Flipped,
    FlippedManifest,
    Cut,
    ContentGone,
    Copied,
    Nobodys,
    LinkedOutside,
    TagOfNothing,
    TagOfNoDigest,
    NoManifest,
    ReferenceGone,
    Damaged,
    NoList,
    Stranger,
    StrangerAmongContents,
    StrangerInRepository,
    NoTagName,
    Remains,
    RemainsOfUpload,
    SuspectsCut,
    GivenUpCut,
    DirtyCut,
    NoTime,
}

/// What a harm is found as.
#[derive(Debug)]
pub(super) struct Harmed {
    pub(super) found: BTreeSet<(Problem, String)>,
    /// The image that it breaks.
    pub(super) breaks: Option<String>,
    /// Only somebody who reads blobs finds it.
    pub(super) is_blobs_bytes: bool,
}

impl Harm {
    pub(super) const ALL: [Self; 23] = [
        Self::Flipped,
        Self::FlippedManifest,
        Self::Cut,
        Self::ContentGone,
        Self::Copied,
        Self::Nobodys,
        Self::LinkedOutside,
        Self::TagOfNothing,
        Self::TagOfNoDigest,
        Self::NoManifest,
        Self::ReferenceGone,
        Self::Damaged,
        Self::NoList,
        Self::Stranger,
        Self::StrangerAmongContents,
        Self::StrangerInRepository,
        Self::NoTagName,
        Self::Remains,
        Self::RemainsOfUpload,
        Self::SuspectsCut,
        Self::GivenUpCut,
        Self::DirtyCut,
        Self::NoTime,
    ];
}

/// A closed store: image `n` in `r<n>` under tag `v`, its layer in `other/<n>` too; a cached repository with a list.
#[derive(Debug)]
pub(super) struct Planted {
    layout: Layout,
    seed: u64,
    outside: tempfile::TempDir,
}

impl Planted {
    pub(super) async fn new(dir: &Path, images: usize, seed: u64) -> Self {
        let store = store(dir);
        let outside = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
        let planted = Self { layout: Layout::new(dir), seed, outside };
        for number in 0..images {
            let [config, layer, all] = planted.blobs(number);
            let (own, other) = (planted.own(number), repo(&format!("other/{number}")));
            for content in [&config, &layer, &all] {
                push(&store, &own, content).await;
            }
            push(&store, &other, &layer).await;
            store.put_manifest(&own, planted.image(number), vec!["v".parse().unwrap()]).await.unwrap();
            store.keep_list(&planted.cached(number), ListKind::Tags, Bytes::from_static(b"[]")).await.unwrap();
        }
        // So that the files of the collection are there.
        let report = store.collect(&CancellationToken::new(), &crate::jobs::Progress::default()).await.unwrap();
        assert!(report.left_alone.is_empty(), "{report:?}");
        store.0.manifests.ledger.note_time();
        store.close();
        planted
    }

    fn own(&self, number: usize) -> RepoName {
        repo(&format!("r{number}"))
    }

    fn cached(&self, number: usize) -> RepoName {
        RepoName::cached(UpstreamId::of("registry.example.com", "x"), &format!("c{number}")).unwrap()
    }

    /// Configuration, layer, and a layer that all images have.
    fn blobs(&self, number: usize) -> [Vec<u8>; 3] {
        let seed = self.seed;
        let layer = (0..3000_u64).map(|at| (at.wrapping_mul(seed | 1) >> 3) as u8 ^ number as u8).chain([number as u8]);
        [format!("{{\"n\":{number},\"seed\":{seed}}}").into_bytes(), layer.collect(), b"a layer of all".to_vec()]
    }

    fn image(&self, number: usize) -> StoredManifest {
        let [config, layer, all] = self.blobs(number);
        image(&config, &[&layer, &all])
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(self.layout.root()).unwrap().display().to_string()
    }

    /// Bytes of contents as they are noted, and as they are.
    pub(super) fn noted(&self) -> u64 {
        std::fs::read_to_string(self.layout.usage()).unwrap().trim().parse().unwrap()
    }

    pub(super) fn bytes(&self) -> u64 {
        let folders = (0..=u8::MAX).map(|first| self.layout.content_folder(Algorithm::Sha256, first));
        let files = folders.flat_map(|folder| files_in(&folder));
        let contents = files.filter(|path| path.file_name().unwrap().len() == 64);
        contents.map(|path| std::fs::metadata(path).unwrap().len()).sum()
    }

    fn flip(&self, path: &Path) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let at = self.seed % file.metadata().unwrap().len();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (self.seed % 8)], at).unwrap();
    }

    /// Harms an image, or something beside it.
    pub(super) fn strike(&self, harm: Harm, number: usize) -> Harmed {
        let (layout, own) = (&self.layout, self.own(number));
        let [_, layer, _] = self.blobs(number).map(|blob| sha256(&blob));
        let content = layout.content(&layer);
        let tag = format!("{own}:v");
        let write = |path: PathBuf, bytes: &[u8]| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (problem, path, breaks) = match harm {
            Harm::Flipped => {
                self.flip(&content);
                (Problem::WrongBytes, content, Some(tag))
            }
            Harm::FlippedManifest => {
                let path = layout.content(&self.image(number).digest);
                self.flip(&path);
                (Problem::WrongBytes, path, Some(tag))
            }
            Harm::Cut => {
                let file = std::fs::OpenOptions::new().write(true).open(&content).unwrap();
                file.set_len(self.seed % 3001).unwrap();
                (Problem::WrongLength, content, Some(tag))
            }
            Harm::ContentGone => {
                std::fs::remove_file(&content).unwrap();
                let names =
                    [own, repo(&format!("other/{number}"))].map(|name| layout.member(&name, Membership::Blob, &layer));
                let found = names.map(|path| (Problem::NoContent, self.name(&path))).into();
                return Harmed { found, breaks: None, is_blobs_bytes: false };
            }
            Harm::Copied => {
                let path = layout.member(&own, Membership::Blob, &layer);
                let bytes = std::fs::read(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                (Problem::Apart, write(path, &bytes), None)
            }
            Harm::Nobodys => {
                let bytes = format!("nobody's {number}").into_bytes();
                (Problem::Nobodys, write(layout.content(&sha256(&bytes)), &bytes), None)
            }
            Harm::LinkedOutside => {
                Disk::default().link(&content, &self.outside.path().join(number.to_string())).unwrap();
                (Problem::ForeignLinks, content, None)
            }
            Harm::TagOfNothing => {
                let path = layout.tag(&own, &"nothing".parse().unwrap());
                let target = format!("{}\n", sha256(b"nothing"));
                (Problem::TagLeadsNowhere, write(path, target.as_bytes()), Some(format!("{own}:nothing")))
            }
            Harm::TagOfNoDigest => {
                let path = layout.tag(&own, &"w".parse().unwrap());
                (Problem::TagUnreadable, write(path, b"sha256:"), Some(format!("{own}:w")))
            }
            Harm::NoManifest => {
                let bytes = format!("[{number}]").into_bytes();
                let path = layout.member(&own, Membership::Manifest, &sha256(&bytes));
                let content = write(layout.content(&sha256(&bytes)), &bytes);
                Disk::default().link(&content, &path).unwrap();
                (Problem::ManifestUnreadable, path, Some(format!("{own}@{}", sha256(&bytes))))
            }
            Harm::ReferenceGone => {
                std::fs::remove_file(layout.member(&own, Membership::Blob, &layer)).unwrap();
                let path = layout.member(&own, Membership::Manifest, &self.image(number).digest);
                (Problem::ReferenceMissing, path, Some(tag))
            }
            Harm::Damaged => {
                let path = layout.damaged(&layer, &number.to_string());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                Disk::default().link(&content, &path).unwrap();
                std::fs::remove_file(&content).unwrap();
                (Problem::Damaged, path, Some(tag))
            }
            Harm::NoList => {
                (Problem::ListUnreadable, write(layout.list(&self.cached(number), ListKind::Tags), b"{"), None)
            }
            Harm::Stranger => (Problem::Foreign, write(layout.root().join(format!("notes{number}")), b"x"), None),
            Harm::StrangerAmongContents => {
                let path = layout.content_folder(Algorithm::Sha256, number as u8).join(format!("core.{number}"));
                (Problem::Foreign, write(path, b"x"), None)
            }
            Harm::StrangerInRepository => {
                let path = layout.repository(&own).join("_uploads");
                std::fs::create_dir(&path).unwrap();
                (Problem::Foreign, path, None)
            }
            Harm::NoTagName => (Problem::Foreign, write(layout.tags(&own).join(".v.swp"), b"x"), None),
            Harm::Remains => (Problem::LeftOver, write(layout.temporary(), b"x"), None),
            Harm::RemainsOfUpload => {
                let path = layout.upload(UploadId::random());
                write(path.join("data"), b"x");
                (Problem::LeftOver, path, None)
            }
            Harm::SuspectsCut => (Problem::CollectionUnreadable, write(layout.suspects(), b"+ 00000"), None),
            Harm::GivenUpCut => (Problem::CollectionUnreadable, write(layout.given_up(), b"+ 0\n"), None),
            Harm::DirtyCut => (Problem::CollectionUnreadable, write(layout.dirty(), b"a\nb"), None),
            Harm::NoTime => (Problem::CollectionUnreadable, write(layout.running_time(), b"noon\n"), None),
        };
        let found = BTreeSet::from([(problem, self.name(&path))]);
        Harmed { found, breaks, is_blobs_bytes: harm == Harm::Flipped }
    }
}
