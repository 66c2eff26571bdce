//! What is set up for a configuration before it takes effect: nothing here puts anything into force.

use std::sync::Arc;

use super::{Known, Modes};
use crate::config::{Config, FoundModeFile, ModeFile, UpstreamSettings};
use crate::server::options;
use crate::server::plan::Plan;
use crate::telemetry::with_causes;
use crate::upstream::{Upstream, UpstreamSetupError};

/// What was set up for a configuration that is not in force yet.
pub(in crate::server) enum Prepared {
    /// The keys count, with their upstream; the sentence says why the mode file on disk is not taken.
    Keys(Option<Known>, Option<String>),
    /// A mode file takes effect, with the upstreams of its modes; the sentence says why it is not the one on disk.
    File(Arc<ModeFile>, Vec<Known>, Option<String>),
    /// What is in force stays; the sentence says why the mode file on disk is not taken.
    Stays(String),
}

impl Modes {
    /// As [`Modes::prepare`] at the start: beside what is on disk there may be the file that was in force before.
    pub(super) fn prepare_first(&self, config: &Config) -> Result<Prepared, UpstreamSetupError> {
        let Some(key) = &config.mode_file else { return self.prepare(config) };
        let kept = self.0.parts.fills.store().kept_mode_file().unwrap_or_else(|error| {
            tracing::warn!(error = with_causes(&error), "the mode file that was in force before can't be read");
            None
        });
        let kept = kept.and_then(|bytes| match ModeFile::parse(&bytes) {
            Ok(file) => Some(Arc::new(file.reached_by(&config.upstream_routes))),
            Err(error) => {
                tracing::warn!(%error, "the mode file that was in force before is not one any more");
                None
            }
        });
        let Some(kept) = kept else {
            // With nothing to fall back to, one whose upstream can't be used is an error of the start.
            if let Some(file) = key.read() {
                self.set_up_all(file)?;
            }
            return self.prepare(config);
        };
        let why = match &key.found {
            FoundModeFile::Read(file) if file.generation >= kept.generation => match self.prepare(config)? {
                Prepared::Stays(why) => why,
                taken => return Ok(taken),
            },
            FoundModeFile::Read(file) => lower(file, &kept),
            FoundModeFile::Wrong(why) => why.clone(),
            FoundModeFile::Absent => gone(&kept),
        };
        match self.set_up_all(&kept) {
            Ok(upstreams) => Ok(Prepared::File(kept, upstreams, Some(why))),
            Err(_) => self.prepare(config),
        }
    }

    /// Sets up what a configuration needs; puts nothing into force; blocking. A mode file that will be taken is kept.
    ///
    /// # Errors
    /// [`UpstreamSetupError`]: the configuration's upstream can't be used.
    pub(in crate::server) fn prepare(&self, config: &Config) -> Result<Prepared, UpstreamSetupError> {
        let in_force = self.state().plan.file.clone();
        let prepared = match config.mode_file.as_ref().map(|key| &key.found) {
            Some(FoundModeFile::Read(file)) => self.prepare_file(file, in_force.as_deref()),
            Some(FoundModeFile::Wrong(why)) if in_force.is_some() => Prepared::Stays(why.clone()),
            Some(FoundModeFile::Wrong(why)) => Prepared::Keys(self.upstream_of_keys(config)?, Some(why.clone())),
            Some(FoundModeFile::Absent) if in_force.is_some() => {
                Prepared::Stays(in_force.as_deref().map(gone).unwrap_or_default())
            }
            Some(FoundModeFile::Absent) | None => Prepared::Keys(self.upstream_of_keys(config)?, None),
        };
        Ok(match (prepared, in_force) {
            (Prepared::Stays(why), Some(file)) => self.stays(&file, config, why),
            (prepared, _) => prepared,
        })
    }

    /// The file in force stays, and its upstreams are reached as the configuration says now: `upstreamRoutes` do not wait for a
    /// file that can be taken.
    fn stays(&self, file: &Arc<ModeFile>, config: &Config, why: String) -> Prepared {
        let reached = ModeFile::parse(file.bytes()).ok().map(|file| Arc::new(file.reached_by(&config.upstream_routes)));
        let changed = reached.filter(|reached| reached != file);
        match changed.and_then(|file| Some((self.set_up_all(&file).ok()?, file))) {
            Some((upstreams, file)) => Prepared::File(file, upstreams, Some(why)),
            None => Prepared::Stays(why),
        }
    }

    fn upstream_of_keys(&self, config: &Config) -> Result<Option<Known>, UpstreamSetupError> {
        config.upstream.as_ref().map(|settings| self.known_or_new(settings)).transpose()
    }

    /// The same for a mode file alone, read now: the rest of the configuration may be refused for another reason. `None`:
    /// there is no such key.
    pub(in crate::server) fn prepare_file_alone(&self) -> Option<Prepared> {
        let (config, in_force) = {
            let state = self.state();
            (Arc::clone(&state.config), state.plan.file.clone())
        };
        let key = config.mode_file.as_ref()?;
        match ModeFile::find(&key.path, &config.listen, &config.upstream_routes) {
            FoundModeFile::Read(file) => Some(self.prepare_file(&file, in_force.as_deref())),
            FoundModeFile::Wrong(why) => Some(Prepared::Stays(why)),
            FoundModeFile::Absent => in_force.as_deref().map(gone).map(Prepared::Stays),
        }
    }

    fn prepare_file(&self, file: &Arc<ModeFile>, in_force: Option<&ModeFile>) -> Prepared {
        if let Some(before) = in_force.filter(|before| file.generation < before.generation) {
            return Prepared::Stays(lower(file, before));
        }
        let upstreams = match self.set_up_all(file) {
            Ok(upstreams) => upstreams,
            Err(error) => return Prepared::Stays(format!("an upstream of the mode file: {}", with_causes(&error))),
        };
        if in_force.is_none_or(|before| before.hash != file.hash)
            && let Err(error) = self.0.parts.fills.store().keep_mode_file(file.bytes())
        {
            tracing::warn!(error = with_causes(&error), "the mode file can't be kept in the data directory");
        }
        Prepared::File(Arc::clone(file), upstreams, None)
    }

    fn set_up_all(&self, file: &Arc<ModeFile>) -> Result<Vec<Known>, UpstreamSetupError> {
        let plan = Plan::of_file(Arc::clone(file));
        plan.upstreams().into_iter().map(|settings| self.known_or_new(settings)).collect()
    }

    /// The upstream of these settings that is there, else a new one.
    fn known_or_new(&self, settings: &UpstreamSettings) -> Result<Known, UpstreamSetupError> {
        if let Some(known) = self.state().known(settings) {
            return Ok(known.clone());
        }
        let upstream =
            Upstream::new(&options::upstream(settings), self.0.parts.metrics.clone(), self.0.parts.tasks.clone())?;
        Ok(Known { settings: settings.clone(), upstream, probed: None, due: None })
    }
}

fn lower(file: &ModeFile, before: &ModeFile) -> String {
    format!("its generation {} is lower than {}, which is in force", file.generation, before.generation)
}

fn gone(before: &ModeFile) -> String {
    format!("it is gone; generation {} stays in force", before.generation)
}
