//! The shape of the file, key by key. Every key is optional; what is absent gets its default in `parse`.

use serde::Deserialize;

use super::images_repo::{ImagesRepo, TrustedHost};
use super::one_or_many::OneOrMany;
use super::secret::Secret;
use crate::values::Count;
use crate::values::{
    Acceleration, AccessMode, Anonymous, Level, LogFormat, MissingReferences, Mode, Role, Scheme, StaleCause,
};
use crate::values::{Address, Alias, ByteSize, ConfigDuration, FilePath, PasswordHash, Reserve};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Raw {
    pub(super) mode: Option<Mode>,
    pub(super) repository: Option<Alias>,
    pub(super) repositories: Option<Vec<RawRepository>>,
    pub(super) listen: Option<OneOrMany<Address>>,
    pub(super) admin_listen: Option<OneOrMany<Address>>,
    pub(super) probe_listen: Option<OneOrMany<Address>>,
    pub(super) tls: Option<RawTls>,
    pub(super) store: Option<RawStore>,
    pub(super) upstream: Option<RawUpstream>,
    pub(super) proxy: Option<RawProxy>,
    pub(super) auth: Option<RawAuth>,
    pub(super) manifests: Option<RawManifests>,
    pub(super) limits: Option<RawLimits>,
    pub(super) log: Option<RawLog>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawRepository {
    pub(super) name: Alias,
    pub(super) images_repo: Option<ImagesRepo>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawTls {
    pub(super) cert_file: Option<FilePath>,
    pub(super) key_file: Option<FilePath>,
    #[serde(rename = "clientCAFile")]
    pub(super) client_ca_file: Option<FilePath>,
    pub(super) trusted_proxy_names: Option<Vec<String>>,
    pub(super) disabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawStore {
    pub(super) dir: Option<FilePath>,
    pub(super) max_bytes: Option<ByteSize>,
    pub(super) reserve_bytes: Option<Reserve>,
    pub(super) must_exist: Option<bool>,
}

/// The upstream: an endpoint, and what concerns all of them. Written out, as `flatten` and `deny_unknown_fields`
/// don't go together.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawUpstream {
    pub(super) images_repo: Option<ImagesRepo>,
    pub(super) scheme: Option<Scheme>,
    pub(super) ca: Option<String>,
    pub(super) ca_file: Option<FilePath>,
    pub(super) license: Option<Secret>,
    pub(super) license_file: Option<FilePath>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<FilePath>,
    pub(super) docker_config_file: Option<FilePath>,
    pub(super) secret_dir: Option<FilePath>,
    pub(super) mirrors: Option<Vec<RawEndpoint>>,
    pub(super) trusted_hosts: Option<Vec<TrustedHost>>,
}

/// An endpoint of the upstream.
#[derive(Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawEndpoint {
    pub(super) images_repo: Option<ImagesRepo>,
    pub(super) scheme: Option<Scheme>,
    pub(super) ca: Option<String>,
    pub(super) ca_file: Option<FilePath>,
    pub(super) license: Option<Secret>,
    pub(super) license_file: Option<FilePath>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<FilePath>,
    pub(super) docker_config_file: Option<FilePath>,
    pub(super) secret_dir: Option<FilePath>,
}

impl RawUpstream {
    /// The endpoint, the mirrors, and the hosts that are trusted.
    pub(super) fn split(self) -> (RawEndpoint, Vec<RawEndpoint>, Vec<TrustedHost>) {
        let endpoint = RawEndpoint {
            images_repo: self.images_repo,
            scheme: self.scheme,
            ca: self.ca,
            ca_file: self.ca_file,
            license: self.license,
            license_file: self.license_file,
            username: self.username,
            password: self.password,
            password_file: self.password_file,
            docker_config_file: self.docker_config_file,
            secret_dir: self.secret_dir,
        };
        (endpoint, self.mirrors.unwrap_or_default(), self.trusted_hosts.unwrap_or_default())
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawProxy {
    pub(super) ttl: Option<ConfigDuration>,
    pub(super) tag_ttl: Option<ConfigDuration>,
    pub(super) negative_ttl: Option<ConfigDuration>,
    pub(super) stale_negative: Option<ConfigDuration>,
    pub(super) max_stale: Option<ConfigDuration>,
    pub(super) stale_on: Option<Vec<StaleCause>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawAuth {
    pub(super) anonymous: Option<Anonymous>,
    pub(super) users: Option<Vec<RawUser>>,
    pub(super) users_dir: Option<FilePath>,
    pub(super) upstream_user: Option<bool>,
    pub(super) token: Option<RawToken>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawUser {
    pub(super) name: String,
    pub(super) password_hash: PasswordHash,
    pub(super) role: Option<Role>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawToken {
    pub(super) enabled: Option<bool>,
    pub(super) ttl: Option<ConfigDuration>,
    pub(super) signing_key_file: Option<FilePath>,
    pub(super) signing_cert_file: Option<FilePath>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawManifests {
    pub(super) missing_references: Option<MissingReferences>,
    pub(super) max_bytes: Option<ByteSize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawLimits {
    pub(super) worker_threads: Option<Count>,
    pub(super) connections: Option<Count>,
    pub(super) pulls: Option<Count>,
    pub(super) uploads: Option<Count>,
    pub(super) listings: Option<Count>,
    pub(super) password_checks: Option<Count>,
    pub(super) queue_wait: Option<ConfigDuration>,
    pub(super) upload_idle: Option<ConfigDuration>,
    pub(super) write_bytes_per_second: Option<ByteSize>,
    pub(super) stall_timeout: Option<ConfigDuration>,
    pub(super) request_header_timeout: Option<ConfigDuration>,
    pub(super) tls_handshake_timeout: Option<ConfigDuration>,
    pub(super) drain_deadline: Option<ConfigDuration>,
    pub(super) header_bytes: Option<ByteSize>,
    pub(super) acceleration: Option<Acceleration>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawLog {
    pub(super) format: Option<LogFormat>,
    pub(super) level: Option<Level>,
    pub(super) access: Option<AccessMode>,
}

/// Every key of the file, found by asking each shape for its fields; the tests hold the documented list against it.
#[cfg(test)]
pub(super) mod shape {
    use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
    use serde::de::{Deserialize, Deserializer, Error as _, IntoDeserializer, Visitor};
    use serde::forward_to_deserialize_any;

    /// Walks down one path and reports what fields it finds at its end.
    #[derive(Clone, Copy)]
    struct Probe<'a> {
        path: &'a [String],
        found: &'a std::cell::RefCell<Vec<String>>,
    }

    impl<'de> IntoDeserializer<'de, Error> for Probe<'_> {
        type Deserializer = Self;

        fn into_deserializer(self) -> Self {
            self
        }
    }

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("the end of the path"))
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_some(self)
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.path.split_first() {
                Some((step, rest)) if step == "[]" => {
                    let inner = Probe { path: rest, ..self };
                    visitor.visit_seq(SeqDeserializer::new(std::iter::once(inner)))
                }
                _ => {
                    self.found.borrow_mut().push("[]".to_owned());
                    Err(Error::custom("the end of the path"))
                }
            }
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            match self.path.split_first() {
                Some((field, rest)) => {
                    let inner = Probe { path: rest, ..self };
                    visitor.visit_map(MapDeserializer::new(std::iter::once((field.as_str(), inner))))
                }
                None => {
                    self.found.borrow_mut().extend(fields.iter().map(ToString::to_string));
                    Err(Error::custom("the end of the path"))
                }
            }
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
            newtype_struct tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn steps_below(path: &[String]) -> Vec<String> {
        let found = std::cell::RefCell::default();
        assert!(super::Raw::deserialize(Probe { path, found: &found }).is_err(), "a probe never yields a value");
        found.into_inner()
    }

    /// The paths of all keys that hold a value, `auth.users[].name`, in the order of the shapes.
    pub(crate) fn keys() -> Vec<String> {
        let mut keys = Vec::new();
        let mut open = vec![Vec::new()];
        while let Some(path) = open.pop() {
            let below = steps_below(&path);
            if below.is_empty() {
                keys.push(path.join(".").replace(".[]", "[]"));
            }
            open.extend(below.into_iter().rev().map(|step| [path.clone(), vec![step]].concat()));
        }
        keys
    }
}
