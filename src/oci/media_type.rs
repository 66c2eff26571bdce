//! Media types of manifests and of layers that registries don't hold.

/// The kinds of manifest that this registry stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestKind {
    /// OCI image manifest (image-spec, manifest.md).
    OciImage,
    /// OCI image index (image-spec, image-index.md).
    OciIndex,
    /// OCI artifact manifest, in the specification's 1.1 release candidates only; signing tools wrote it.
    OciArtifact,
    /// Docker image manifest V2, schema 2.
    DockerImage,
    /// Docker manifest list.
    DockerList,
}

impl ManifestKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::OciImage, Self::OciIndex, Self::OciArtifact, Self::DockerImage, Self::DockerList];

    /// The media type on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OciImage => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::OciArtifact => "application/vnd.oci.artifact.manifest.v1+json",
            Self::DockerImage => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// As sentences call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OciImage => "OCI image",
            Self::OciIndex => "OCI index",
            Self::OciArtifact => "OCI artifact",
            Self::DockerImage => "Docker image of schema 2",
            Self::DockerList => "Docker manifest list",
        }
    }

    /// The kind of a `Content-Type` or `mediaType`; parameters after a semicolon don't count.
    #[must_use]
    pub fn of(media_type: &str) -> Option<Self> {
        let essence = essence(media_type);
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(essence))
    }

    /// Whether manifests of this kind list other manifests.
    #[must_use]
    pub const fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

/// A media type without its parameters.
pub(super) fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// Whether `media_type` is one of Docker's schema 1 manifests, which are refused.
pub(super) fn is_schema1(media_type: &str) -> bool {
    matches!(
        essence(media_type),
        "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws"
    )
}

/// Whether layers of this media type are fetched from elsewhere and never stored in a registry
/// (image-spec, layer.md, "Non-Distributable Layers"; Docker's foreign layers).
#[must_use]
pub fn is_foreign_layer(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || essence.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
}
