//! `deckhousereleases.yaml`: the objects by which a cluster without a way to release channels learns of releases.

use serde_json::Value;

use super::error::PullError;
use super::platform::Told;
use crate::values::Release;
use crate::yaml::Yaml;

/// Where the changes of a release can be read.
const CHANGES: &str = "https://github.com/deckhouse/deckhouse/releases/tag";
/// Most maps and lists within one another.
const DEEPEST: usize = 24;

/// The file for these releases, in their order; those that say nothing of themselves, or are no releases, are left out. `None`: none
/// is left.
///
/// # Errors
/// [`PullError::Unusable`]: what one says of itself can't be read.
pub(super) fn render(releases: &[Told]) -> Result<Option<String>, PullError> {
    let mut text = String::new();
    for Told { tag, files } in releases {
        let (Some((version, changes)), Some(release)) = (files, Release::of_tag(tag)) else { continue };
        let unusable = |why: String| PullError::unusable(format!("release-channel:{tag}"), why);
        let version: Value =
            serde_json::from_slice(version).map_err(|error| unusable(format!("its version.json: {error}")))?;
        let changes = std::str::from_utf8(changes).map_err(|error| unusable(format!("its changelog.yaml: {error}")))?;
        text.push_str("---\n");
        text.push_str(&document(&release, &version, changes).map_err(unusable)?.render());
    }
    Ok((!text.is_empty()).then_some(text))
}

fn document(release: &Release, version: &Value, changes: &str) -> Result<Yaml, String> {
    let name = release.to_string();
    let mut spec = Vec::new();
    // `d8` leaves empty ones out.
    if let Some(changes) = changelog(changes)? {
        spec.push(("changelog", changes));
    }
    spec.push(("changelogLink", Yaml::text(format!("{CHANGES}/{name}"))));
    let [major, minor, _] = release.numbers();
    if let Some(disruptions) = version["disruptions"][format!("{major}.{minor}")].as_array()
        && !disruptions.is_empty()
    {
        spec.push(("disruptions", Yaml::List(disruptions.iter().map(text_of).collect())));
    }
    if let Some(requirements) = version["requirements"].as_object()
        && !requirements.is_empty()
    {
        let pairs = requirements.iter().map(|(name, value)| (name.clone(), text_of(value)));
        spec.push(("requirements", Yaml::map(pairs)));
    }
    spec.push(("version", Yaml::text(&name)));
    Ok(Yaml::map([
        ("apiVersion", Yaml::text("deckhouse.io/v1alpha1")),
        ("approved", Yaml::Bool(false)),
        ("kind", Yaml::text("DeckhouseRelease")),
        ("metadata", Yaml::map([("name", Yaml::text(name))])),
        ("spec", Yaml::map(spec)),
    ]))
}

/// A text; of whatever else somebody wrote, its JSON.
fn text_of(value: &Value) -> Yaml {
    Yaml::text(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// The changes; `None`: there are none.
fn changelog(text: &str) -> Result<Option<Yaml>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 200_000, max_events: 600_000, max_depth: 32, max_documents: 1 },
        with_snippet: false,
    };
    let read: Option<Value> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("its changelog.yaml: {error}"))?;
    let read = read.filter(|read| !read.is_null() && read.as_object().is_none_or(|object| !object.is_empty()));
    Ok(read.map(|read| of_value(&read, 0)))
}

fn of_value(value: &Value, depth: usize) -> Yaml {
    match value {
        _ if depth > DEEPEST => text_of(value),
        Value::Array(items) => Yaml::List(items.iter().map(|item| of_value(item, depth + 1)).collect()),
        Value::Object(pairs) => Yaml::map(pairs.iter().map(|(key, value)| (key.clone(), of_value(value, depth + 1)))),
        Value::Bool(truth) => Yaml::Bool(*truth),
        Value::Number(number) => number.as_u64().map_or_else(|| text_of(value), Yaml::Number),
        Value::Null | Value::String(_) => text_of(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(tag: &str, files: Option<(Value, &str)>) -> Told {
        let files = files.map(|(version, changes)| (version.to_string().into_bytes(), changes.as_bytes().to_vec()));
        Told { tag: tag.parse().unwrap(), files }
    }

    #[test]
    fn a_release_is_told_as_the_real_client_tells_it() {
        let version = json!({
            "version": "v1.45.11",
            "requirements": { "k8s": "1.25.0", "ingressNginx": "1.1" },
            "disruptions": { "1.45": ["ingressNginx"], "1.36": ["other"] },
        });
        let changes =
            "helm:\n  fixes:\n  - summary: \"Fix: deprecated\\nresources.\"\n    pull_request: https://a/4751\n";
        let text = render(&[told("v1.45.11", Some((version, changes))), told("main", None)]).unwrap().unwrap();
        let read: Value = serde_saphyr::from_str(text.trim_start_matches("---\n")).unwrap();
        assert_eq!(
            read,
            json!({
                "apiVersion": "deckhouse.io/v1alpha1",
                "approved": false,
                "kind": "DeckhouseRelease",
                "metadata": { "name": "v1.45.11" },
                "spec": {
                    "changelog": { "helm": { "fixes": [
                        { "summary": "Fix: deprecated\nresources.", "pull_request": "https://a/4751" },
                    ] } },
                    "changelogLink": "https://github.com/deckhouse/deckhouse/releases/tag/v1.45.11",
                    "disruptions": ["ingressNginx"],
                    "requirements": { "k8s": "1.25.0", "ingressNginx": "1.1" },
                    "version": "v1.45.11",
                },
            }),
            "{text}"
        );
        assert_eq!(render(&[told("main", None)]).unwrap(), None);
    }

    #[test]
    fn a_hostile_release_is_an_error_and_no_text_of_its_own() {
        let version = json!({ "version": "v1.0.0", "requirements": { "a: b\n---\nkind: Secret": "x\n---\n" } });
        let text = render(&[told("v1.0.0", Some((version, "{}")))]).unwrap().unwrap();
        assert_eq!(text.lines().filter(|line| *line == "---").count(), 1, "{text}");
        let bomb = format!(
            "a0: &a0 [x]\n{}",
            (1..30).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1)).collect::<String>()
        );
        assert!(render(&[told("v1.0.0", Some((json!({}), &bomb)))]).is_err());
        assert!(render(&[told("v1.0.0", Some((json!({}), "a: [")))]).is_err());
    }
}
