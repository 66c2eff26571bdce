//! The plan carried out in steps, each of them whole or not done, so that a kill between or within any two leaves files
//! that the next run knows as its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::plan::Plan;
use super::state::{STATE_FILE, State};
use super::{NodeConfigError, REGISTRY_D};
use crate::config::Secret;
use crate::fs;

/// Hashes of files with passwords in them are nobody's business.
const STATE_MODE: u32 = 0o600;

/// One step.
#[derive(Debug)]
pub(super) enum Step {
    Remember(State),
    Write {
        path: String,
        content: Secret,
        mode: u32,
    },
    Remove {
        path: String,
    },
    /// If it is empty.
    RemoveFolder {
        path: String,
    },
}

/// The steps of a plan; none if everything is as it should be.
pub(super) fn of(plan: &Plan) -> Vec<Step> {
    if plan.writes.is_empty() && plan.removals.is_empty() {
        return if plan.before == plan.after { Vec::new() } else { vec![Step::Remember(plan.after.clone())] };
    }
    // First the intent: whichever of the two a file holds after a kill, it is ours.
    let mut intent = plan.before.clone();
    for write in &plan.writes {
        let known = intent.files.entry(write.path.clone()).or_default();
        for hash in plan.after.files.get(&write.path).into_iter().flatten() {
            if !known.contains(hash) {
                known.push(hash.clone());
            }
        }
    }
    let mut steps = vec![Step::Remember(intent)];
    steps.extend(plan.writes.iter().map(|write| Step::Write {
        path: write.path.clone(),
        content: write.after.content.clone(),
        mode: write.after.mode,
    }));
    steps.extend(plan.removals.iter().map(|removal| Step::Remove { path: removal.path.clone() }));
    steps.extend(plan.folders.iter().map(|path| Step::RemoveFolder { path: path.clone() }));
    steps.push(Step::Remember(plan.after.clone()));
    steps
}

/// Does a step in `registry.d` at `folder`; what there is to say about it. Blocking.
pub(super) fn carry_out(folder: &Path, step: &Step) -> Result<Option<String>, NodeConfigError> {
    match step {
        Step::Remember(state) => {
            let path = folder.join(STATE_FILE);
            if *state == State::default() {
                // After the way back nothing of ours is left; none is read as an empty one.
                fs::remove_file(&path)?;
                return Ok(None);
            }
            let text = state
                .to_json()
                .map_err(|error| NodeConfigError::State { path: path.clone(), reason: error.to_string() })?;
            fs::replace_file(&path, &text, STATE_MODE)?;
            Ok(None)
        }
        Step::Write { path, content, mode } => {
            let target = folder.join(path);
            fs::replace_file(&target, content.expose().as_bytes(), *mode)?;
            open_up(&target, *mode)?;
            Ok(Some(format!("{REGISTRY_D}/{path} is written")))
        }
        Step::Remove { path } => {
            let was_there = fs::remove_file(&folder.join(path))?;
            Ok(was_there.then(|| format!("{REGISTRY_D}/{path} is removed")))
        }
        Step::RemoveFolder { path } => {
            // Files of others stay, and the directory with them.
            let _ = std::fs::remove_dir(folder.join(path));
            Ok(None)
        }
    }
}

/// A umask takes permissions away, never adds any.
fn open_up(path: &Path, mode: u32) -> Result<(), NodeConfigError> {
    let failed = |source| NodeConfigError::Permissions { path: path.to_owned(), source };
    let there = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777;
    if there == mode {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}
