//! A server with a mode file.

use std::path::Path;
use std::sync::Arc;

use reqwest::Response;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{ALIAS, Client, REPO, Registry, Setup, Upstream, header, within};

/// A mode as the file writes it.
pub(crate) fn mode(name: &str, upstream: Option<&Upstream>) -> String {
    match upstream {
        Some(upstream) => {
            format!("{{mode: {name}, upstream: {{imagesRepo: '{}/{REPO}', scheme: HTTP}}}}", upstream.address())
        }
        None => format!("{{mode: {name}}}"),
    }
}

/// A mode with a login at its upstream.
pub(crate) fn mode_with_login(name: &str, upstream: &Upstream, user: &str, password: &str) -> String {
    let login = format!("scheme: HTTP, username: {user}, password: {password}}}");
    mode(name, Some(upstream)).replace("scheme: HTTP}", &login)
}

/// The same mode as a coming one in a phase.
pub(crate) fn coming(mode: &str, phase: &str) -> String {
    format!("{}, phase: {phase}}}", mode.strip_suffix('}').unwrap())
}

/// The text of a mode file.
pub(crate) fn mode_file(generation: u64, in_force: &str, coming: Option<&str>, previous: &[&str]) -> String {
    let mut text = format!("version: 1\ngeneration: {generation}\ninForce: {in_force}\n");
    if let Some(coming) = coming {
        text.push_str(&format!("coming: {coming}\n"));
    }
    if !previous.is_empty() {
        text.push_str(&format!("previous: [{}]\n", previous.join(", ")));
    }
    text
}

/// A server with users whose modes come from a file.
pub(crate) struct Switched {
    pub(crate) registry: Registry,
}

impl Switched {
    /// Starts one with this mode file.
    pub(crate) fn start(file: &str) -> Self {
        Self::start_with(file, "")
    }

    /// The same with more lines of the configuration.
    pub(crate) fn start_with(file: &str, config: &str) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), Some(file), config)
    }

    /// In a folder that another one used before; `None`: with the mode file that is there, if any.
    pub(crate) fn start_in(folder: Arc<TempDir>, file: Option<&str>, config: &str) -> Self {
        if let Some(file) = file {
            write(folder.path(), file);
        }
        let setup = setup_in(&folder).config(config);
        Self { registry: Registry::start_in(folder, &setup) }
    }

    /// Starts one that stops at a crash point; see [`Registry::paused`].
    #[cfg(feature = "failpoints")]
    pub(crate) fn start_and_pause_at(point: &str, file: &str) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        write(folder.path(), file);
        let setup = setup_in(&folder).pause_at(point);
        Self { registry: Registry::start_in(folder, &setup) }
    }

    /// Writes a mode file and has it read.
    pub(crate) fn write(&self, file: &str) {
        write(self.registry.folder().path(), file);
        self.registry.signal(Signal::HUP);
    }

    /// Removes it and has that seen.
    pub(crate) fn remove(&self) {
        std::fs::remove_file(self.registry.folder().path().join("mode.yaml")).unwrap();
        self.registry.signal(Signal::HUP);
    }

    /// Writes a mode file and waits until it is in force.
    pub(crate) async fn switch(&self, file: &str) {
        self.write(file);
        let hash = digest_of(file);
        self.until(|status| status["modeFile"]["hash"] == hash.as_str()).await;
    }

    /// Asks for the status until it is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        within(async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
            }
        })
        .await
    }

    pub(crate) async fn status(&self) -> Value {
        self.registry.admin().get("/status").await.json().await.unwrap()
    }

    /// Waits for the first probe of the upstream of the mode in force.
    pub(crate) async fn until_probed(&self) {
        self.until(|status| status["upstream"]["outcome"].is_string()).await;
    }

    pub(crate) fn client(&self, user: &str) -> Client {
        self.registry.client_as(user)
    }
}

fn setup_in(folder: &TempDir) -> Setup {
    Setup::with_users().config(&format!("modeFile: {}/mode.yaml\nproxy: {{ tagTtl: 0s }}", folder.path().display()))
}

fn write(folder: &Path, file: &str) {
    // Whole or not at all, as the keeper of the file does it.
    let staged = folder.join("mode.yaml.new");
    std::fs::write(&staged, file).unwrap();
    std::fs::rename(staged, folder.join("mode.yaml")).unwrap();
}

fn digest_of(file: &str) -> String {
    super::digest(file.as_bytes()).strip_prefix("sha256:").unwrap().to_owned()
}

/// A path below the alias.
pub(crate) fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

/// The mode that answered.
pub(crate) fn answered_by(response: &Response) -> String {
    header(response, "d8-registry-mode")
}

/// Whether a mode before the one in force did.
pub(crate) fn is_previous(response: &Response) -> bool {
    response.headers().get("d8-registry-cache").is_some_and(|value| value == "previous")
}
