//! The object by which a cluster takes its modules from the registry that a bundle was pushed to: a `ModuleSource`
//! (`deckhouse.io/v1alpha1`), written for `kubectl apply`.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::checker::RegistryAddress;
use crate::fs::replace_file;
use crate::telemetry::with_causes;
use crate::upstream::{Credentials, Scheme};

/// The line by which a file is known for one of ours, which may be written anew.
const FIRST_LINE: &str = "# Written by d8-registry for kubectl apply.";
/// It has a login in it.
const MODE: u32 = 0o600;

/// A `ModuleSource` in YAML. `modules`: the repository of the modules below that of the address, `""` for that itself.
#[must_use]
pub fn module_source(address: &RegistryAddress, modules: &str, credentials: &Credentials, ca: Option<&str>) -> String {
    let RegistryAddress { scheme, host, path, .. } = address;
    let parts = [host.as_str(), path, modules];
    let repo = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let login = match credentials {
        Credentials::Anonymous => json!({}),
        Credentials::Basic { user, password } => {
            let password = password.expose_secret();
            json!({ "username": user, "password": password, "auth": STANDARD.encode(format!("{user}:{password}")) })
        }
    };
    let docker_config = STANDARD.encode(json!({ "auths": { host: login } }).to_string());
    // JSON is YAML.
    let text = |text: &str| json!(text).to_string();
    let mut out = format!("{FIRST_LINE}\n");
    if !matches!(credentials, Credentials::Anonymous) {
        out += "# Its login is the one that pushed: give the cluster one that may only read, if there is one.\n";
    }
    out += "apiVersion: deckhouse.io/v1alpha1\nkind: ModuleSource\nmetadata:\n  name: deckhouse\nspec:\n  registry:\n";
    let scheme = match scheme {
        Scheme::Http => "HTTP",
        Scheme::Https => "HTTPS",
    };
    out += &format!("    scheme: {scheme}\n    repo: {}\n    dockerCfg: {docker_config}\n", text(&repo));
    if let Some(ca) = ca {
        out += &format!("    ca: {}\n", text(ca));
    }
    out
}

/// Writes a `ModuleSource` to a file that is not there or was written so before: with mode 0600, whole or not at all.
///
/// # Errors
/// Of the disk; `AlreadyExists`: another file has the name.
pub fn write_module_source(file: &Path, text: &str) -> io::Result<()> {
    match std::fs::read_to_string(file) {
        Ok(found) if found.lines().next() == Some(FIRST_LINE) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it holds something else, and is left as it is"));
        }
        Err(error) => return Err(error),
    }
    let file = std::path::absolute(file)?;
    replace_file(&file, text.as_bytes(), MODE).map_err(|error| io::Error::other(with_causes(&error)))
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    fn read(text: &str) -> serde_json::Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn a_module_source_has_the_modules_repository_the_login_of_its_host_and_the_authority() {
        let address: RegistryAddress = "https://r.example:5000/d8/ee".parse().unwrap();
        let credentials = Credentials::Basic { user: "rw".to_owned(), password: SecretString::from("a\"b: {c}") };
        let ca = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
        let source = read(&module_source(&address, "modules", &credentials, Some(ca)));
        let registry = &source["spec"]["registry"];
        assert_eq!((&source["kind"], &source["apiVersion"]), (&"ModuleSource".into(), &"deckhouse.io/v1alpha1".into()));
        assert_eq!((&registry["repo"], &registry["ca"]), (&"r.example:5000/d8/ee/modules".into(), &ca.into()));
        assert_eq!(registry["scheme"], "HTTPS");
        let config = STANDARD.decode(registry["dockerCfg"].as_str().unwrap()).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let login = &config["auths"]["r.example:5000"];
        assert_eq!((&login["username"], &login["password"]), (&"rw".into(), &"a\"b: {c}".into()));
        assert_eq!(STANDARD.decode(login["auth"].as_str().unwrap()).unwrap(), b"rw:a\"b: {c}");
        let plain = read(&module_source(&"http://h".parse().unwrap(), "", &Credentials::Anonymous, None));
        assert_eq!(
            (&plain["spec"]["registry"]["repo"], &plain["spec"]["registry"]["scheme"]),
            (&"h".into(), &"HTTP".into())
        );
        assert!(plain["spec"]["registry"].get("ca").is_none());
    }

    #[test]
    fn a_file_of_somebody_else_is_left_as_it_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("module_source.yml");
        let text = module_source(&"http://h/m".parse().unwrap(), "", &Credentials::Anonymous, None);
        for _ in 0..2 {
            write_module_source(&file, &text).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&file, "kind: ModuleSource\n").unwrap();
        assert_eq!(write_module_source(&file, &text).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kind: ModuleSource\n");
    }
}
