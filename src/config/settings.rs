//! The settings in force by name, and what a running server keeps of them.

use super::definition::{Below, Change, Value};
use super::keys::{self, TlsKeys};
use super::origin::{List, Setting};
use super::{Config, Tls, TlsFiles};

impl Config {
    /// Every key with the value in force, in the order of [`super::keys()`]. Secrets are `***`.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut list = List::new(&self.origins);
        list.add("mode", self.mode_name().to_owned());
        let mode_file = self.mode_file.as_ref().map(|key| key.path.display().to_string());
        list.add("modeFile", mode_file.unwrap_or_else(|| "-".to_owned()));
        list.add("repository", self.repository.to_string());
        for (index, repository) in self.repositories.iter().enumerate() {
            let images_repo = match (&repository.host, &repository.path) {
                (Some(host), Some(path)) => format!("{host}/{path}").trim_end_matches('/').to_owned(),
                _ => "-".to_owned(),
            };
            let fields = [("name", repository.name.as_str()), ("imagesRepo", images_repo.as_str())];
            list.add_entry("repositories", index, &fields);
        }
        self.listen.show("listen", &mut list);
        self.admin_listen.show("adminListen", &mut list);
        self.probe_listen.show("probeListen", &mut list);
        TlsKeys::from(&self.tls).show("tls", &mut list);
        self.store.show("store", &mut list);
        list.settings.extend_from_slice(&self.upstream_notes.shown);
        self.proxy.show("proxy", &mut list);
        self.auth.show("auth", &mut list);
        self.manifests.show("manifests", &mut list);
        self.gc.show("gc", &mut list);
        self.scrub.show("scrub", &mut list);
        self.retention.show("retention", &mut list);
        self.replicas.show("replicas", &mut list);
        self.limits.show("limits", &mut list);
        self.log.show("log", &mut list);
        list.settings
    }

    /// Keys whose value differs and that a running server does not take. Turning TLS on or off is `tls.disabled`,
    /// whichever key did it.
    #[must_use]
    pub fn restart_keys_changed(old: &Self, new: &Self) -> Vec<String> {
        let secure = |config: &Self| matches!(config.tls, Tls::On(_));
        let (before, after) = (old.settings(), new.settings());
        let value = |settings: &[Setting], key: &str| {
            settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.clone())
        };
        let restart = super::keys().into_iter().filter(|info| info.change == Change::Restart).map(|info| info.key);
        let changed = |key: &String| match key.as_str() {
            "tls.disabled" => secure(old) != secure(new),
            key => value(&before, key) != value(&after, key),
        };
        restart.filter(changed).collect()
    }

    /// Puts the values of `old` in the place of those a running server doesn't take.
    pub(super) fn keep_restart_keys(&mut self, old: &Self) {
        self.listen.keep(&old.listen, &keys::listen());
        self.admin_listen.keep(&old.admin_listen, &keys::admin_listen());
        self.probe_listen.keep(&old.probe_listen, &keys::probe_listen());
        if matches!(self.tls, Tls::On(_)) != matches!(old.tls, Tls::On(_)) {
            self.tls.clone_from(&old.tls);
        }
        self.store.keep(&old.store, &Below);
        self.proxy.keep(&old.proxy, &Below);
        self.auth.keep(&old.auth, &Below);
        self.manifests.keep(&old.manifests, &Below);
        self.gc.keep(&old.gc, &Below);
        self.scrub.keep(&old.scrub, &Below);
        self.retention.keep(&old.retention, &Below);
        self.replicas.keep(&old.replicas, &Below);
        self.limits.keep(&old.limits, &Below);
        self.log.keep(&old.log, &Below);
    }
}

impl From<&Tls> for TlsKeys {
    /// Files that are given and not used, because TLS is off, are not shown.
    fn from(tls: &Tls) -> Self {
        let (files, disabled) = match tls.clone() {
            Tls::On(files) => (Some(files), false),
            Tls::Off { forced } => (None, forced),
        };
        let Some(TlsFiles { cert_file, key_file, client_ca_file, trusted_proxy_names, controller_ca_file }) = files
        else {
            return Self {
                cert_file: None,
                key_file: None,
                client_ca_file: None,
                trusted_proxy_names: Vec::new(),
                controller_ca_file: None,
                disabled,
            };
        };
        Self {
            cert_file: Some(cert_file),
            key_file: Some(key_file),
            client_ca_file,
            trusted_proxy_names,
            controller_ca_file,
            disabled,
        }
    }
}
