//! A plan as a unified diff, without secrets.

use std::collections::BTreeSet;

use similar::TextDiff;

use super::REGISTRY_D;
use super::plan::Plan;

/// Keys of `hosts.toml` whose values nobody may see; each stands at the beginning of a line that we rendered.
const SECRET_KEYS: [&str; 2] = ["auth = ", "Authorization = "];

/// The changes of the plan, file by file; empty if there are none.
pub(super) fn of(plan: &Plan) -> String {
    let mut text = String::new();
    for write in &plan.writes {
        let before = write.before.as_ref().map(|before| before.expose());
        text.push_str(&file(&write.path, before, Some(write.after.content.expose())));
    }
    for removal in &plan.removals {
        if let Some(before) = &removal.before {
            text.push_str(&file(&removal.path, Some(before.expose()), None));
        }
    }
    text
}

fn file(path: &str, before: Option<&str>, after: Option<&str>) -> String {
    let name = |there: Option<&str>, side: &str| match there {
        Some(_) => format!("{side}/{REGISTRY_D}/{path}"),
        None => "/dev/null".to_owned(),
    };
    let (from, to) = (name(before, "a"), name(after, "b"));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let known = secrets(before);
    let (before, after) = (masked(before, &known), masked(after, &known));
    TextDiff::from_lines(before.as_str(), after.as_str())
        .unified_diff()
        .context_radius(3)
        .header(&from, &to)
        .to_string()
}

fn secret_of(line: &str) -> Option<(&str, &str)> {
    let key = SECRET_KEYS.iter().find(|key| line.trim_start().starts_with(**key))?;
    let end = line.len() - line.trim_start().len() + key.len();
    Some(line.split_at(end))
}

fn secrets(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(secret_of).map(|(_, value)| value).collect()
}

/// Values become `***`, and `*** (new)` if they were not there before.
fn masked(text: &str, known: &BTreeSet<&str>) -> String {
    text.lines()
        .map(|line| match secret_of(line) {
            Some((key, value)) if known.contains(value) => format!("{key}***\n"),
            Some((key, _)) => format!("{key}*** (new)\n"),
            None => format!("{line}\n"),
        })
        .collect()
}
