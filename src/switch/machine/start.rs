//! What is remembered where nothing is: taken over from what runs at a first start, or put together again from what servers,
//! nodes and Deckhouse were given. What can't be told is not guessed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::nodes::images_base;
use crate::switch::documents::{DeckhouseRegistry, FIXED_HOST, NODE_HOST, Plane, RegistryState, ServerMode};
use crate::switch::observed::{Input, Observed, Output, Server};
use crate::switch::outputs::{InCluster, hosts};
use crate::switch::record::{InputSource, NodePlan, Record};
use crate::switch::settings::{DEFAULT_TTL, Params, Settings, Target, Upstream};

/// The fact of `registry-state` that names the input in force.
pub(super) const SOURCE_FACT: &str = "source";

/// A record for a cluster that has none.
///
/// # Errors
/// Why it can't be told what runs.
pub(super) fn begin(look: &Observed) -> Result<Record, String> {
    let (plane, generation) = plane(look)?;
    let state = look.outputs.state.value();
    let registry = match &look.outputs.deckhouse_registry {
        Output::Present { value, .. } => Some(value),
        Output::Absent => None,
        Output::Garbled { why, .. } | Output::Unreadable(why) => {
            return Err(format!("Secret deckhouse-registry: {why}"));
        }
    };
    let outside = match registry.map(DeckhouseRegistry::upstream) {
        None => None,
        Some(Ok(upstream)) => upstream,
        Some(Err(why)) => return Err(format!("Secret deckhouse-registry: {why}")),
    };
    let is_fixed = registry.is_some_and(|registry| registry.address == FIXED_HOST);
    let completed = completed(look, &plane, state, is_fixed, outside.as_ref())?;
    let trusted = trusted(look);
    let nodes = node_plan(look, &completed, outside.as_ref(), trusted.as_ref())?;
    let given = DeckhouseRegistry::of(&completed, trusted.as_ref());
    let named: BTreeSet<String> = images_base(&completed)
        .into_iter()
        .chain(outside.iter().map(|upstream| upstream.images_repo.clone()))
        .chain(look.outputs.bashible.value().map(|config| config.images_base.clone()))
        .collect();
    let fallback = match (outside, &completed) {
        (Some(upstream), _) => Some(upstream),
        (None, Params::Direct(upstream) | Params::Proxy { upstream, .. } | Params::Unmanaged(Some(upstream))) => {
            Some(upstream.clone())
        }
        (None, Params::Local | Params::Unmanaged(None)) => None,
    };
    let source = state.and_then(source);
    let passed_over = source.and_then(|source| unasked(look, source, state, &plane, &completed));
    Ok(Record {
        attempt: 1,
        generation,
        // Which input counts was settled before the record was lost: no other takes its place by itself.
        source_chosen: source.is_some(),
        source,
        settings: None,
        passed_over,
        target: completed.clone(),
        under_way: state.is_some(),
        adopted: state.is_none(),
        plane,
        nodes,
        deckhouse_registry: if registry.is_some() && registry == given.as_ref() {
            Some(completed.clone())
        } else {
            None
        },
        fallback,
        named,
        ca: trusted.as_ref().map(|known| known.ca.clone()),
        ro: trusted.map(|known| known.ro.password),
        skipped: BTreeSet::new(),
        settle: None,
        accept_missing: false,
        completed,
    })
}

/// What servers hold.
fn plane(look: &Observed) -> Result<(Plane, u64), String> {
    match &look.outputs.mode_file {
        Output::Present { value, .. } => return Ok((value.file.plane.clone(), value.file.generation)),
        Output::Garbled { why, .. } | Output::Unreadable(why) => {
            return Err(format!("Secret d8-registry-mode can't be read: {why}"));
        }
        Output::Absent => {}
    }
    if look.servers.is_empty() {
        return Err("there is no Secret d8-registry-mode, and no server to ask".to_owned());
    }
    for (name, server) in &look.servers {
        match server {
            Server::Silent(why) => {
                return Err(format!(
                    "there is no Secret d8-registry-mode, and the server of {name} says nothing: {why}"
                ));
            }
            Server::Answered(state) if state.mode_file.is_some() => {
                return Err(format!(
                    "there is no Secret d8-registry-mode any more, and the server of {name} holds one"
                ));
            }
            Server::Answered(state) if state.in_force != Target::Unmanaged => {
                return Err(format!(
                    "the server of {name} runs {} by the keys of its configuration, and there is no Secret d8-registry-mode",
                    state.in_force
                ));
            }
            Server::Answered(_) => {}
        }
    }
    Ok((Plane { in_force: ServerMode::Unmanaged, coming: None, previous: Vec::new() }, 0))
}

/// Settings that nothing shows a switch to: they may have been passed over before the record was lost, so they begin none.
fn unasked(
    look: &Observed,
    source: InputSource,
    state: Option<&RegistryState>,
    plane: &Plane,
    completed: &Params,
) -> Option<Settings> {
    let input = match source {
        InputSource::Manual => &look.inputs.manual,
        InputSource::ModuleConfig => &look.inputs.module_config,
    };
    let Input::Valid { settings, .. } = input else { return None };
    let modes = std::iter::once(&plane.in_force)
        .chain(plane.coming.iter().map(|coming| &coming.mode))
        .chain(plane.previous.iter());
    let is_held = modes.filter_map(params_of).any(|params| params == settings.params);
    let is_on_the_way =
        state.is_some_and(|state| state.mode != state.target_mode && state.target_mode == settings.params.target());
    (settings.params != *completed && !is_held && !is_on_the_way).then(|| settings.clone())
}

/// The parameters of a mode that servers hold.
fn params_of(mode: &ServerMode) -> Option<Params> {
    match mode {
        ServerMode::Direct(upstream) => Some(Params::Direct(upstream.clone())),
        ServerMode::Proxy { upstream, ttl } => Some(Params::Proxy {
            upstream: upstream.clone(),
            ttl: if *ttl == Duration::ZERO { DEFAULT_TTL } else { *ttl },
        }),
        ServerMode::Local => Some(Params::Local),
        ServerMode::Unmanaged => None,
    }
}

/// The last completed target.
fn completed(
    look: &Observed,
    plane: &Plane,
    state: Option<&RegistryState>,
    is_fixed: bool,
    outside: Option<&Upstream>,
) -> Result<Params, String> {
    let Some(state) = state else {
        // Nothing of ours has run yet.
        return Ok(params_of(&plane.in_force).unwrap_or(Params::BARE));
    };
    if state.mode == Target::Unmanaged {
        if !is_fixed {
            // Bare or configured: nodes and Deckhouse have the same, and the input tells which it is.
            return Ok(outside.cloned().map_or(Params::BARE, |upstream| Params::Unmanaged(Some(upstream))));
        }
        let base = look.outputs.bashible.value().map_or("", |config| &config.images_base);
        return Err(format!(
            "registry-state says Unmanaged and deckhouse-registry names the cluster's own address; nodes have {base:?}"
        ));
    }
    std::iter::once(&plane.in_force)
        .chain(plane.previous.iter())
        .chain(plane.coming.iter().map(|coming| &coming.mode))
        .find(|mode| mode.target() == state.mode)
        .and_then(params_of)
        .ok_or_else(|| format!("registry-state says {}, and no server holds that mode", state.mode))
}

/// What nodes were told to trust, from what they were given.
fn trusted(look: &Observed) -> Option<InCluster> {
    let config = look.outputs.bashible.value()?;
    let ours = config.hosts.values().flatten().filter(|mirror| mirror.host == NODE_HOST);
    let mut found = None;
    for mirror in ours {
        let login = mirror.login.as_ref().filter(|login| login.username == "ro");
        if let (Some(ca), Some(ro)) = (&mirror.ca, login) {
            found = Some(InCluster { ca: ca.clone(), ro: ro.clone() });
        }
    }
    found.or_else(|| {
        let password = look.outputs.users.get(&crate::values::Role::Ro)?.value()?.password.clone();
        let ca = look.outputs.ca.value()?.clone();
        let ro = crate::switch::settings::Login { username: "ro".to_owned(), password };
        config.hosts.contains_key(FIXED_HOST).then_some(InCluster { ca, ro })
    })
}

/// What nodes were given.
fn node_plan(
    look: &Observed,
    completed: &Params,
    outside: Option<&Upstream>,
    trusted: Option<&InCluster>,
) -> Result<NodePlan, String> {
    let config = match &look.outputs.bashible {
        Output::Absent => return Ok(NodePlan::default()),
        Output::Present { value, .. } => value,
        Output::Garbled { why, .. } | Output::Unreadable(why) => {
            return Err(format!("Secret registry-bashible-config: {why}"));
        }
    };
    let of_registry = outside.map(|upstream| Params::Unmanaged(Some(upstream.clone())));
    let same = [Some(completed.clone()), of_registry].into_iter().flatten().find(|params| {
        config.mode == params.target() && hosts(params, trusted).is_some_and(|hosts| hosts == config.hosts)
    });
    // Mirrors of nobody known stay until a switch ends.
    let kept = if same.is_some() { Default::default() } else { config.hosts.clone() };
    Ok(NodePlan { kept, with: same })
}

/// The input that was in force.
fn source(state: &RegistryState) -> Option<InputSource> {
    let (_, word) = state.facts.iter().find(|(name, _)| name == SOURCE_FACT)?;
    [InputSource::Manual, InputSource::ModuleConfig].into_iter().find(|source| source.as_str() == word)
}
