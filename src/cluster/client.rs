//! One call of the API server: its deadline, and its error in our words.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};

use super::{Access, ClusterError, NewSecret, SecretChange, StoredSecret, Version};

/// Who wrote, in `managedFields`.
pub(super) const FIELD_MANAGER: &str = "d8-registry";
/// The longest that a call may take. An admission webhook has 10 s by default, 30 s at most.
const CALL: Duration = Duration::from_secs(35);

/// A client of the API server, for one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    /// Calls since it was set up.
    calls: Arc<AtomicU64>,
}

impl Cluster {
    /// Sets a client up; asks nothing yet.
    ///
    /// # Errors
    /// [`ClusterError::Access`] if there is no usable description of an API server.
    pub async fn connect(access: &Access, namespace: &str) -> Result<Self, ClusterError> {
        let config = access.read().await?;
        let client = Client::try_from(config).map_err(|error| ClusterError::Access(error.to_string()))?;
        Ok(Self { client, namespace: namespace.to_owned(), calls: Arc::default() })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A Secret of the namespace; `None` where there is none.
    ///
    /// # Errors
    /// [`ClusterError`]; "could not be read" is never "is not there".
    pub async fn secret(&self, name: &str) -> Result<Option<StoredSecret>, ClusterError> {
        let found = self.call("get a Secret", self.secrets().get_opt(name)).await?;
        Ok(found.map(StoredSecret::from_object))
    }

    /// Makes a Secret.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where there is one of this name.
    pub async fn create_secret(&self, secret: NewSecret) -> Result<StoredSecret, ClusterError> {
        let secret = secret.into_object(&self.namespace);
        let made = self.call("create a Secret", self.secrets().create(&PostParams::default(), &secret)).await?;
        Ok(StoredSecret::from_object(made))
    }

    /// Whether a Secret could be made; makes none.
    ///
    /// # Errors
    /// As of [`create_secret`](Self::create_secret): [`is_conflict`](ClusterError::is_conflict) says that there is one of this
    /// name, without a right to read it.
    pub async fn could_create_secret(&self, secret: NewSecret) -> Result<(), ClusterError> {
        let secret = secret.into_object(&self.namespace);
        let tried = PostParams { dry_run: true, ..PostParams::default() };
        self.call("try to create a Secret", self.secrets().create(&tried, &secret)).await?;
        Ok(())
    }

    /// Changes a Secret that still has this version.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where it was changed since.
    pub async fn change_secret(
        &self,
        name: &str,
        version: &Version,
        change: SecretChange,
    ) -> Result<StoredSecret, ClusterError> {
        let patch = Patch::Merge(change.into_patch(version));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let secrets = self.secrets();
        let changed = self.call("change a Secret", secrets.patch(name, &parameters, &patch)).await?;
        Ok(StoredSecret::from_object(changed))
    }

    /// Whether a Secret could be changed; changes none.
    ///
    /// # Errors
    /// As of [`change_secret`](Self::change_secret): what an admission policy or webhook would say of the change too.
    pub async fn could_change_secret(
        &self,
        name: &str,
        version: &Version,
        change: SecretChange,
    ) -> Result<(), ClusterError> {
        let patch = Patch::Merge(change.into_patch(version));
        let tried =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), dry_run: true, ..PatchParams::default() };
        self.call("try to change a Secret", self.secrets().patch(name, &tried, &patch)).await?;
        Ok(())
    }

    /// Removes a Secret that still has this version.
    ///
    /// # Errors
    /// [`ClusterError`], [`is_conflict`](ClusterError::is_conflict) where it was changed since.
    pub async fn delete_secret(&self, name: &str, version: &Version) -> Result<(), ClusterError> {
        let preconditions = Preconditions { resource_version: Some(version.0.clone()), uid: None };
        let parameters = DeleteParams::default().preconditions(preconditions);
        self.call("delete a Secret", self.secrets().delete(name, &parameters)).await?;
        Ok(())
    }

    /// Calls since this client, or the one that it was cloned from, was set up. What is only watched is not among them.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits for an answer until the deadline.
    pub(super) async fn call<T>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(CALL, future).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ClusterError::Late { call: name, within: CALL }),
        }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.namespace)
    }
}
