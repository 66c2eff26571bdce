//! Which API server is spoken with, and as whom.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::ClusterError;

/// The variable that kubelet sets in every pod.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// How to find the API server. With neither a file nor a context it is what a person expects: a kubeconfig where the
/// environment names one (`KUBECONFIG`), in a pod its ServiceAccount, else `~/.kube/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// The user to act as (`kubectl --as`); `None`: whoever the description says.
    pub acting_as: Option<String>,
}

impl Access {
    /// Reads the description.
    ///
    /// # Errors
    /// [`ClusterError::Access`].
    pub(super) async fn read(&self) -> Result<Config, ClusterError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(file) => from_file(file, &options).await?,
            None if self.context.is_none() && in_pod() => {
                Config::incluster().map_err(|error| ClusterError::Access(error.to_string()))?
            }
            None => Config::from_kubeconfig(&options).await.map_err(|error| ClusterError::Access(error.to_string()))?,
        };
        if let Some(user) = &self.acting_as {
            config.auth_info.impersonate = Some(user.clone());
            // Groups of another user are none of this one's: the API server adds those of a ServiceAccount itself.
            config.auth_info.impersonate_groups = None;
        }
        // A call has a deadline of its own, and who asked decides about another try.
        config.default_retry = false;
        Ok(config)
    }
}

/// Whether this is a pod, and nobody named another API server.
fn in_pod() -> bool {
    std::env::var_os("KUBECONFIG").is_none() && std::env::var_os(IN_CLUSTER).is_some()
}

async fn from_file(file: &Path, options: &KubeConfigOptions) -> Result<Config, ClusterError> {
    let wrong = |error: kube::config::KubeconfigError| ClusterError::Access(format!("{}: {error}", file.display()));
    let kubeconfig = Kubeconfig::read_from(file).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, options).await.map_err(wrong)
}
