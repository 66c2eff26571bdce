//! Just enough of a manifest to know what it names.
//!
//! The bytes of a manifest are stored and served as they came; this is a view of them. A manifest's
//! media type is a function of its bytes (plus, for OCI manifests that don't say it, their shape), so
//! nothing beside the bytes has to be stored.

mod kept;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::media_type::{essence, is_schema1};
use super::{Digest, ManifestKind, is_foreign_layer};

/// The descriptor of one piece of content in a manifest (image-spec, descriptor.md), as far as needed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
}

/// A parsed manifest of a known kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is, or what it is read like if it is of another kind.
    pub kind: ManifestKind,
    /// The media type of a manifest that is none of these kinds; only what is kept for its digest has one.
    pub other: Option<String>,
    /// An image's configuration.
    pub config: Option<Descriptor>,
    /// Layers of an image, or blobs of an artifact, foreign layers among them.
    pub layers: Vec<Descriptor>,
    /// Manifests that an index lists.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one says something about.
    pub subject: Option<Descriptor>,
    /// Type of the artifact as referrers lists show it: `artifactType`, else the configuration's type.
    pub artifact_type: Option<String>,
    /// Annotations of the manifest itself.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not a manifest that this registry stores.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// Not JSON, or JSON of another shape; says where.
    #[error("the manifest can't be read: {0}")]
    Json(String),
    /// Docker schema 1.
    #[error("Docker manifests of schema 1 are not accepted, push the image with a current client as schema 2 or OCI")]
    Schema1,
    /// A media type outside [`ManifestKind`].
    #[error("manifests of type {0:?} are not accepted, known are {known}", known = ManifestKind::ALL.map(ManifestKind::name).join(", "))]
    Kind(String),
    /// The request says one thing and the manifest another.
    #[error("Content-Type {content_type:?} disagrees with the manifest's mediaType {media_type:?}")]
    TypeMismatch {
        /// The request's header.
        content_type: String,
        /// The body's field.
        media_type: String,
    },
    /// The type says one thing and the fields another, or the fields are of two kinds at once.
    #[error("{0}")]
    Shape(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// `content_type` is the request's header on a push; `None` when the bytes come from the store.
    ///
    /// # Errors
    /// [`InvalidManifest`] says what is wrong, in words for the client.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| InvalidManifest::Json(e.to_string()))?;
        let kind = raw.kind(content_type)?;
        raw.check_shape(kind)?;
        let named = |name: Option<String>| name.filter(|text| !text.is_empty());
        let artifact_type = named(raw.artifact_type).or_else(|| {
            let config = raw.config.as_ref().filter(|_| kind == ManifestKind::OciImage)?;
            named(Some(config.media_type.clone()))
        });
        Ok(Self {
            kind,
            other: None,
            config: raw.config,
            layers: raw.layers.or(raw.blobs).unwrap_or_default(),
            manifests: raw.manifests.unwrap_or_default(),
            subject: raw.subject,
            artifact_type,
            annotations: raw.annotations.unwrap_or_default(),
        })
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(&self) -> Cow<'static, str> {
        match &self.other {
            Some(other) => Cow::Owned(other.clone()),
            None => Cow::Borrowed(self.kind.as_str()),
        }
    }

    /// The blobs without which the manifest is not whole: configuration and layers, foreign ones left out.
    pub fn required_blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(self.layers.iter().filter(|layer| !is_foreign_layer(&layer.media_type)))
    }
}

impl Raw {
    fn kind(&self, content_type: Option<&str>) -> Result<ManifestKind, InvalidManifest> {
        let stated = self.media_type.as_deref().filter(|text| !text.is_empty());
        if self.schema_version == Some(1)
            || self.fs_layers.is_some()
            || content_type.is_some_and(is_schema1)
            || stated.is_some_and(is_schema1)
        {
            return Err(InvalidManifest::Schema1);
        }
        let known = |text: &str| ManifestKind::of(text).ok_or_else(|| InvalidManifest::Kind(essence(text).to_owned()));
        match (content_type, stated) {
            (Some(header), Some(field)) if known(header)? != known(field)? => {
                Err(InvalidManifest::TypeMismatch { content_type: header.to_owned(), media_type: field.to_owned() })
            }
            (_, Some(field)) => known(field),
            (Some(header), None) => match known(header)? {
                kind @ (ManifestKind::OciImage | ManifestKind::OciIndex) => Ok(kind),
                ManifestKind::OciArtifact | ManifestKind::DockerImage | ManifestKind::DockerList => {
                    Err(InvalidManifest::Shape("a manifest of this Content-Type must say its mediaType"))
                }
            },
            (None, None) if self.manifests.is_some() => Ok(ManifestKind::OciIndex),
            (None, None) if self.layers.is_some() || self.config.is_some() => Ok(ManifestKind::OciImage),
            (None, None) => Err(InvalidManifest::Shape("the manifest has neither mediaType nor layers nor manifests")),
        }
    }

    /// A manifest read as an image by one client and as an index by another is an attack
    /// (GHSA-qq97-vm5h-rrhg), so the fields have to be those of one kind.
    fn check_shape(&self, kind: ManifestKind) -> Result<(), InvalidManifest> {
        let image = self.config.is_some() || self.layers.is_some();
        if self.manifests.is_some() && (image || self.blobs.is_some()) {
            return Err(InvalidManifest::Shape("the manifest has both manifests and config or layers"));
        }
        if kind != ManifestKind::OciArtifact && self.schema_version != Some(2) {
            return Err(InvalidManifest::Shape("the manifest's schemaVersion is not 2"));
        }
        match kind {
            ManifestKind::OciImage | ManifestKind::DockerImage => {
                if self.config.is_none() || self.layers.is_none() {
                    return Err(InvalidManifest::Shape("an image's manifest needs config and layers"));
                }
                if self.blobs.is_some() {
                    return Err(InvalidManifest::Shape("an image's manifest has no blobs"));
                }
            }
            ManifestKind::OciIndex | ManifestKind::DockerList => {
                if self.manifests.is_none() {
                    return Err(InvalidManifest::Shape("an index needs manifests"));
                }
            }
            ManifestKind::OciArtifact => {
                if image || self.manifests.is_some() {
                    return Err(InvalidManifest::Shape(
                        "an artifact's manifest has blobs, no config, layers or manifests",
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;

    fn parse(content_type: Option<&str>, body: &str) -> Result<Manifest, InvalidManifest> {
        Manifest::parse(content_type, body.replace("$D", D).as_bytes())
    }

    #[test]
    fn the_media_type_is_a_function_of_the_bytes() {
        let bare = r#"{"schemaVersion":2,"config":$D,"layers":[$D]}"#;
        assert_eq!(parse(None, bare).unwrap().kind, ManifestKind::OciImage);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(parse(None, index).unwrap().kind, ManifestKind::OciIndex);
        for kind in ManifestKind::ALL {
            let fields = match kind {
                ManifestKind::OciImage | ManifestKind::DockerImage => r#""config":$D,"layers":[]"#,
                ManifestKind::OciIndex | ManifestKind::DockerList => r#""manifests":[$D]"#,
                ManifestKind::OciArtifact => r#""blobs":[$D]"#,
            };
            let body = format!(r#"{{"schemaVersion":2,"mediaType":"{}",{fields}}}"#, kind.as_str());
            assert_eq!(parse(None, &body).unwrap().kind, kind);
            assert_eq!(parse(Some(kind.as_str()), &body).unwrap().kind, kind);
        }
    }

    #[test]
    fn confusing_manifests_are_refused() {
        let image = ManifestKind::OciImage.as_str();
        for (content_type, body) in [
            (None, r#"{"schemaVersion":2,"config":$D,"layers":[],"manifests":[]}"#),
            (Some(image), r#"{"schemaVersion":2,"manifests":[]}"#),
            (
                Some(image),
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
            ),
            (
                Some("application/vnd.docker.distribution.manifest.v2+json"),
                r#"{"schemaVersion":2,"config":$D,"layers":[]}"#,
            ),
            (Some("application/vnd.docker.distribution.manifest.v1+json"), r#"{"schemaVersion":1,"fsLayers":[]}"#),
            (None, r#"{"schemaVersion":1,"name":"a","tag":"b"}"#),
            (Some("text/html"), r#"{"schemaVersion":2,"config":$D,"layers":[]}"#),
            (None, r#"{"schemaVersion":2,"config":{"digest":"sha256:00","size":1},"layers":[]}"#),
            (None, r#"{"schemaVersion":2,"config":{"digest":"x","size":-1},"layers":[]}"#),
            (None, r#"{"schemaVersion":2,"schemaVersion":2,"config":$D,"layers":[]}"#),
            (None, "[]"),
            (None, ""),
        ] {
            assert!(parse(content_type, body).is_err(), "{body}");
        }
    }

    #[test]
    fn a_refusal_names_every_kind_that_is_taken() {
        let refusal =
            parse(Some("text/html"), r#"{"schemaVersion":2,"config":$D,"layers":[]}"#).unwrap_err().to_string();
        assert!(
            refusal.starts_with("manifests of type \"text/html\" are not accepted, known are OCI image, "),
            "{refusal}"
        );
        assert!(ManifestKind::ALL.iter().all(|kind| refusal.contains(kind.name())), "{refusal}");
    }

    #[test]
    fn foreign_layers_are_not_required() {
        let body = r#"{"schemaVersion":2,"config":$D,"layers":[
            {"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1},
            $D]}"#;
        assert_eq!(parse(None, body).unwrap().required_blobs().count(), 2);
    }

    #[test]
    fn the_artifact_type_falls_back_to_the_configurations_type() {
        let body = r#"{"schemaVersion":2,"config":$D,"layers":[]}"#;
        assert_eq!(
            parse(None, body).unwrap().artifact_type.as_deref(),
            Some("application/vnd.oci.image.config.v1+json")
        );
        let body = r#"{"schemaVersion":2,"artifactType":"a/b","config":$D,"layers":[]}"#;
        assert_eq!(parse(None, body).unwrap().artifact_type.as_deref(), Some("a/b"));
    }
}
