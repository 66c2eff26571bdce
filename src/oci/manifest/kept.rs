//! A manifest that others made and that its digest vouches for: whatever of it can be read.
//!
//! A cache gives the bytes as they came, so it is as lenient as the clients and registries that they came through.
//! A pushed manifest is read strictly, by [`Manifest::parse`].

use serde_json::{Map, Value};

use super::super::ManifestKind;
use super::{Descriptor, InvalidManifest, Manifest};

/// Docker's schema 1, with and without its signatures.
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The media type of JSON that names none.
const JSON: &str = "application/json";

impl Manifest {
    /// Reads a manifest that was verified by its digest: strictly if that works, else as far as it can be understood.
    /// Sizes may be strings, lists and values null; a descriptor that can't be read is left out, and so is one without
    /// a size.
    ///
    /// # Errors
    /// [`InvalidManifest`] for what is no JSON object.
    pub fn kept(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        Self::parse(None, bytes).or_else(|strict| {
            let read = serde_json::from_slice::<Map<String, Value>>(bytes);
            read.map(|fields| Self::understood(&fields)).map_err(|_| strict)
        })
    }

    fn understood(fields: &Map<String, Value>) -> Self {
        let list = |key: &str| -> Vec<Descriptor> {
            let entries = fields.get(key).and_then(Value::as_array);
            entries.into_iter().flatten().filter_map(descriptor).collect()
        };
        let has = |key: &str| fields.get(key).is_some_and(|value| !value.is_null());
        let stated = fields.get("mediaType").and_then(Value::as_str).filter(|text| is_media_type(text));
        let schema1 = has("fsLayers") || fields.get("schemaVersion").and_then(number) == Some(1);
        let by_shape = if has("manifests") { ManifestKind::OciIndex } else { ManifestKind::OciImage };
        let (kind, other) = match (stated, stated.and_then(ManifestKind::of)) {
            (_, Some(kind)) => (kind, None),
            (Some(stated), None) => (by_shape, Some(stated)),
            (None, None) if schema1 && has("signatures") => (by_shape, Some(SCHEMA1_SIGNED)),
            (None, None) if schema1 => (by_shape, Some(SCHEMA1)),
            // Of both kinds at once it is read differently by different clients.
            (None, None) if has("manifests") != (has("layers") || has("config")) => (by_shape, None),
            (None, None) => (by_shape, Some(JSON)),
        };
        let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let config = fields.get("config").and_then(descriptor);
        let of_config = || config.as_ref().map(|config| config.media_type.clone()).filter(|text| !text.is_empty());
        let annotations = fields.get("annotations").and_then(Value::as_object);
        let annotations = annotations.into_iter().flatten().filter_map(|(key, value)| match value {
            Value::String(text) => Some((key.clone(), text.clone())),
            Value::Number(number) => Some((key.clone(), number.to_string())),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        Self {
            kind,
            other: other.map(str::to_owned),
            artifact_type: text("artifactType").map(str::to_owned).or_else(of_config),
            layers: [list("layers"), list("blobs")].concat(),
            manifests: list("manifests"),
            subject: fields.get("subject").and_then(descriptor),
            annotations: annotations.collect(),
            config,
        }
    }
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    let fields = value.as_object()?;
    let media_type = fields.get("mediaType").and_then(Value::as_str).unwrap_or_default().to_owned();
    let digest = fields.get("digest")?.as_str()?.trim().parse().ok()?;
    Some(Descriptor { media_type, digest, size: number(fields.get("size")?)? })
}

/// A whole number, also as a string or with a fraction of nothing.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok().or_else(|| whole(text.trim().parse().ok()?)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
fn whole(number: f64) -> Option<u64> {
    // Up to here each whole number is one of its own (IEEE 754).
    const EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..=EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// Whether a text can stand in a `Content-Type` (RFC 6838, 4.2).
fn is_media_type(text: &str) -> bool {
    text.len() <= 255 && text.contains('/') && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn kept(text: &str) -> Manifest {
        Manifest::kept(text.replace("$A", A).as_bytes()).unwrap()
    }

    #[test]
    fn what_a_strict_reader_refuses_is_understood() {
        let image = ManifestKind::OciImage.as_str();
        for (size, read) in [("7", 7), ("\"7\"", 7), ("7.0", 7), ("\" 7 \"", 7), ("7e0", 7)] {
            let text = format!(
                r#"{{"schemaVersion":"2","mediaType":"{image}","config":{{"mediaType":null,"digest":"$A","size":{size}}},
                "layers":[{{"mediaType":"m","digest":"$A","size":{size},"urls":null,"x":[1]}},null,7],
                "annotations":{{"a":"b","n":1,"l":null}},"artifactType":null,"x":{{}}}}"#
            );
            let manifest = kept(&text);
            assert_eq!((manifest.kind, &*manifest.media_type()), (ManifestKind::OciImage, image));
            let sizes: Vec<_> = manifest.required_blobs().map(|blob| blob.size).collect();
            assert_eq!(sizes, [read, read], "{text}");
            assert_eq!(manifest.annotations.len(), 2);
        }
        for (text, media_type, blobs) in [
            (r#"{"schemaVersion":2,"config":{"digest":"$A","size":1},"layers":null,"annotations":null}"#, image, 1),
            (r#"{"schemaVersion":2,"layers":[{"digest":"$A","size":-1},{"digest":"x","size":1}]}"#, image, 0),
            (r#"{"schemaVersion":2,"manifests":null,"layers":{}}"#, image, 0),
            (r#"{"manifests":[{"digest":"$A","size":"1"}]}"#, ManifestKind::OciIndex.as_str(), 0),
            (r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"$A"}],"signatures":[{}]}"#, SCHEMA1_SIGNED, 0),
            (r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#, SCHEMA1, 0),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.new+json","layers":[]}"#,
                "application/vnd.new+json",
                0,
            ),
            (r#"{"mediaType":"a\r\nb/c"}"#, JSON, 0),
            (r#"{"mediaType":["a"],"config":null}"#, JSON, 0),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, JSON, 0),
            ("{}", JSON, 0),
        ] {
            let manifest = kept(text);
            assert_eq!((&*manifest.media_type(), manifest.required_blobs().count()), (media_type, blobs), "{text}");
        }
        for no_object in ["", "[]", "null", "<html>", r#"{"schemaVersion":"#] {
            assert!(Manifest::kept(no_object.as_bytes()).is_err(), "{no_object}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_strictly_is_read_the_same(size in 0_u64..1 << 53) {
            let text = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{A}","size":{size}}},"layers":[]}}"#);
            let strict = Manifest::parse(None, text.as_bytes()).unwrap();
            let fields: Map<String, Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&Manifest::understood(&fields), &strict);
            prop_assert_eq!(Manifest::kept(text.as_bytes()).unwrap(), strict);
        }
    }
}
