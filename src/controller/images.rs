//! Whether every required image is there: the list is made from the cluster, each registry is asked again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::answers::{Answer, Reply};
use super::sources::Sources;
use crate::checker::{Check, Depth, Pace, RepeatedCheck, Target, TargetOptions};
use crate::oci::Tag;
use crate::release::{self, ReleaseList, RequiredImage};
use crate::switch::{CheckMode, Checked, ImagesAnswer, ImagesAt};
use crate::telemetry::with_causes;

/// From one look at what the cluster needs to the next.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// Before another try to make a list that could not be made.
const RETRY: Duration = Duration::from_secs(10);
/// Longest reading of an install image, of some 500 MB.
const INSTALL_IMAGE: Duration = Duration::from_secs(600);

/// The list that was read last. A release's list never changes.
#[derive(Debug)]
pub(super) struct Images {
    sources: Arc<Sources>,
    /// Held while one is read: several checks need the same. A cluster runs one release, and another for an hour while it is
    /// updated.
    list: Mutex<Option<Arc<ReleaseList>>>,
}

impl Images {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, list: Mutex::default() }
    }

    /// What the cluster needs now.
    async fn required(&self, check_mode: CheckMode, at: &[TargetOptions]) -> Result<Vec<RequiredImage>, String> {
        let in_force = self.sources.in_force().await?;
        let running = self.sources.running(in_force.base).await?;
        match check_mode {
            CheckMode::Relax => running.relaxed().map_err(|error| error.to_string()),
            CheckMode::Default => {
                let release = running.tag().map_err(|error| error.to_string())?;
                // The registry in force has it, unless it is away: then the one that is checked may.
                let ways = in_force.ways.into_iter().chain(at.iter().cloned());
                let list = self.list(&release, ways.collect()).await?;
                running.required(&list).map_err(|error| error.to_string())
            }
        }
    }

    async fn list(&self, release: &Tag, ways: Vec<TargetOptions>) -> Result<Arc<ReleaseList>, String> {
        let mut read = self.list.lock().await;
        if let Some(list) = read.as_ref().filter(|list| list.release == *release) {
            return Ok(Arc::clone(list));
        }
        let mut why = "no registry is known that may have it".to_owned();
        for options in ways {
            let address = options.address.to_string();
            let client = self.sources.client(options).await?;
            let reading = release::read_install_image(&client, release, &|_| {});
            match tokio::time::timeout(INSTALL_IMAGE, Box::pin(reading)).await {
                Ok(Ok(list)) => return Ok(Arc::clone(read.insert(Arc::new(list)))),
                Ok(Err(error)) => why = format!("{address}: {}", with_causes(&error)),
                Err(_) => why = format!("{address}: it was not read within {} minutes", INSTALL_IMAGE.as_secs() / 60),
            }
        }
        Err(format!("the list of release {release} can't be read from its install image: {why}"))
    }
}

/// Checks for as long as it is asked.
pub(super) async fn check(images: &Images, at: &ImagesAt, check_mode: CheckMode, reply: &Reply) {
    let depth = match at {
        ImagesAt::Upstream(_) => Depth::Manifest,
        ImagesAt::Masters(_) => Depth::Layers,
    };
    let lacking = |why: &str| {
        let message = format!("Mode: {check_mode}\n{why}\n");
        reply.give(Answer::Images(ImagesAnswer { state: Checked::Lacking, message }));
    };
    loop {
        // Credentials and the list may have changed since; a changed list begins the check anew.
        let prepared = async {
            let options = images.sources.at(at).await?;
            let items = images.required(check_mode, &options).await?;
            let mut targets = Vec::with_capacity(options.len());
            for options in options {
                let address = options.address.clone();
                targets.push(Target::new(address, images.sources.client(options).await?));
            }
            Ok::<_, String>((items, targets))
        };
        match Box::pin(prepared).await {
            Err(why) => {
                lacking(&why);
                tokio::time::sleep(RETRY).await;
            }
            Ok((items, targets)) => {
                let check = Check::new(check_mode, depth, items, targets);
                let mut repeated = RepeatedCheck::new(check, Pace::default());
                Box::pin(go_on(images, at, check_mode, &mut repeated, reply)).await;
            }
        }
    }
}

/// Runs one check until credentials or addresses may have changed: as long as the list can be made.
async fn go_on(images: &Images, at: &ImagesAt, check_mode: CheckMode, check: &mut RepeatedCheck, reply: &Reply) {
    let made_with = images.sources.at(at).await.ok().map(|options| format!("{options:?}"));
    let mut list_at = Instant::now() + LIST_EVERY;
    loop {
        let due = async {
            check.due().await;
        };
        tokio::select! {
            () = due => {
                check.run(&|| {}).await;
                reply.give(Answer::Images(answer(check)));
            }
            () = tokio::time::sleep_until(list_at) => {
                list_at = Instant::now() + LIST_EVERY;
                let Ok(options) = images.sources.at(at).await else { return };
                if made_with.as_ref() != Some(&format!("{options:?}")) {
                    return;
                }
                match images.required(check_mode, &options).await {
                    Ok(items) => check.replace_items(items),
                    // The list before stays: what was needed a minute ago is needed.
                    Err(why) => tracing::warn!(why, "the list of required images can't be made anew"),
                }
            }
        }
    }
}

fn answer(check: &RepeatedCheck) -> ImagesAnswer {
    let report = check.report();
    let lacks = report.registries.iter().any(|registry| !registry.errors.is_empty());
    let state = if report.is_good() {
        Checked::Whole
    } else if lacks {
        Checked::Lacking
    } else {
        Checked::Running
    };
    ImagesAnswer { state, message: format!("{report}\n") }
}
