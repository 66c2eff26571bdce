//! A `ModuleSource` as a cluster has it: where modules are, and the login for that. Nothing of its login is shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;

use crate::checker::RegistryAddress;
use crate::upstream::{Credentials, Scheme};
use crate::values::docker_login;

/// Where modules are.
#[derive(Debug)]
pub(super) struct ModuleSource {
    pub(super) address: RegistryAddress,
    pub(super) credentials: Credentials,
    /// PEM of authorities that are trusted beside the system's.
    pub(super) ca: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    registry: Registry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registry {
    repo: String,
    scheme: Option<String>,
    docker_cfg: Option<String>,
    ca: Option<String>,
}

impl ModuleSource {
    /// Reads the object.
    ///
    /// # Errors
    /// What is wrong with it, a sentence without its beginning.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: 20_000, max_events: 60_000, max_depth: 32, max_documents: 1 },
            with_snippet: false,
        };
        // The parser's own sentence may quote a value.
        let object: Result<Object, _> = serde_saphyr::from_str_with_options(text, options);
        let Ok(Object { kind, spec: Spec { registry } }) = object else {
            return Err("is no ModuleSource with spec.registry.repo".to_owned());
        };
        if kind != "ModuleSource" {
            return Err("is no ModuleSource".to_owned());
        }
        let scheme = match registry.scheme.as_deref().unwrap_or("HTTPS") {
            scheme if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            scheme if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return Err("spec.registry.scheme is neither HTTP nor HTTPS".to_owned()),
        };
        let address: RegistryAddress = format!("{}://{}", scheme.in_url(), registry.repo)
            .parse()
            .map_err(|error| format!("spec.registry.repo: {error}"))?;
        if address.path.is_empty() || address.reference.is_some() {
            return Err("spec.registry.repo names no repository".to_owned());
        }
        let credentials = match registry.docker_cfg.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            None => Credentials::Anonymous,
            Some(text) => {
                let json = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let json = json.ok_or("spec.registry.dockerCfg is no base64 of a text")?;
                match docker_login(&json, &address.host, scheme) {
                    Ok(None) => Credentials::Anonymous,
                    Ok(Some((user, password))) => {
                        Credentials::Basic { user, password: SecretString::from(password.expose().to_owned()) }
                    }
                    Err(why) => return Err(format!("spec.registry.dockerCfg {why}")),
                }
            }
        };
        Ok(Self { address, credentials, ca: registry.ca.filter(|ca| !ca.trim().is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_module_source_says_where_modules_are_and_who_may_read_them() {
        let auth = STANDARD.encode("user:pass");
        let config = STANDARD.encode(format!(r#"{{"auths":{{"a.example:5000":{{"auth":"{auth}"}}}}}}"#));
        let text = |lines: &str| format!("apiVersion: x\nkind: ModuleSource\nspec:\n  registry:\n{lines}");
        let found = ModuleSource::parse(&text(&format!("    repo: a.example:5000/modules\n    dockerCfg: {config}\n")));
        let found = found.unwrap();
        assert_eq!((found.address.to_string().as_str(), found.ca), ("https://a.example:5000/modules", None));
        let Credentials::Basic { user, password } = found.credentials else { panic!() };
        assert_eq!((user.as_str(), password.expose_secret()), ("user", "pass"));
        let plain = ModuleSource::parse(&text("    repo: a.example/m\n    scheme: HTTP\n    ca: PEM\n")).unwrap();
        assert_eq!((plain.address.scheme, plain.ca.as_deref()), (Scheme::Http, Some("PEM")));
        let wrong = [
            "    scheme: HTTP\n".to_owned(),
            "    repo: a.example/m\n    scheme: FTP\n".to_owned(),
            "    repo: a.example\n".to_owned(),
            "    repo: a.example/m:tag\n".to_owned(),
            "    repo: a.example/m\n    dockerCfg: secret-that-is-no-base64\n".to_owned(),
            format!("    repo: b.example/m\n    dockerCfg: {config}\n"),
        ];
        for lines in wrong {
            let error = ModuleSource::parse(&text(&lines)).unwrap_err();
            assert!(!error.contains("pass") && !error.contains("secret") && !error.contains(&auth), "{error}");
        }
        assert!(ModuleSource::parse("kind: Secret\nspec: {registry: {repo: a/b}}").is_err());
    }
}
