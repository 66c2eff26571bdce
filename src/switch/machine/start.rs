//! What is remembered where nothing is: taken over from what runs at a first start, or put together again from what servers,
//! nodes and Deckhouse were given. What can't be told is not guessed.

use std::collections::BTreeSet;

use super::nodes::{UNKNOWN, host_of, images_base};
use crate::switch::documents::{DeckhouseRegistry, FIXED_HOST, Mirror, NODE_HOST, Plane, RegistryState, ServerMode};
use crate::switch::observed::{Input, Node, Observed, Output, Seen, Server};
use crate::switch::outputs::{InCluster, hosts};
use crate::switch::record::{InputSource, NodePlan, Record};
use crate::switch::settings::{Params, Settings, Target, Upstream};

/// The fact of `registry-state` that names the input in force. It is in every one of ours, and in none of Deckhouse's.
pub(super) const SOURCE_FACT: &str = "source";
/// The fact that says that what runs was taken over, and that nothing of it is ours to change yet.
pub(super) const ADOPTED_FACT: &str = "adopted";
/// The fact that says that ModuleConfig was seen without settings of the registry; beside [`ADOPTED_FACT`] alone.
pub(super) const UNSET_FACT: &str = "unsetSeen";
/// The fact that names the registry outside of the target.
pub(super) const REGISTRY_FACT: &str = "registry";
/// The fact that names the registry outside of the last completed target: bare Unmanaged has none.
pub(super) const COMPLETED_FACT: &str = "completed";

/// A record for a cluster that has none.
///
/// # Errors
/// Why it can't be told what runs.
pub(super) fn begin(look: &Observed) -> Result<Record, String> {
    let (plane, generation) = plane(look)?;
    let state = match &look.outputs.state {
        Output::Present { value, .. } => Some(value),
        Output::Absent => None,
        Output::Garbled { why, .. } | Output::Unreadable(why) => {
            return Err(format!("Secret registry-state: {why}"));
        }
    };
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
    let adopted = state.is_none_or(|state| !is_ours(state) || fact(state, ADOPTED_FACT).is_some());
    if !adopted {
        if registry.is_none() {
            return Err("there is no Secret deckhouse-registry".to_owned());
        }
        had_their_secret(look, is_fixed || completed.is_managed())?;
    }
    let trusted = trusted(look);
    let nodes = node_plan(look, &completed, outside.as_ref(), trusted.as_ref())?;
    let given = DeckhouseRegistry::of(&completed, trusted.as_ref());
    let mut named: BTreeSet<String> = images_base(&completed)
        .into_iter()
        .chain(outside.iter().map(|upstream| upstream.images_repo.clone()))
        .chain(look.outputs.bashible.value().map(|config| config.images_base.clone()))
        .collect();
    // Of a host that nodes have mirrors for and that nothing else names, every repository may be needed.
    for host in look.outputs.bashible.value().iter().flat_map(|config| config.hosts.keys()) {
        if !named.iter().any(|base| host_of(base) == host) {
            named.insert(host.clone());
        }
    }
    let fallback = match (outside, &completed) {
        // Never managed: there is nothing to go back to.
        (Some(_), Params::Unmanaged(None)) if nodes == NodePlan::default() => None,
        (Some(upstream), _) => Some(upstream),
        (None, Params::Direct(upstream) | Params::Proxy { upstream, .. } | Params::Unmanaged(Some(upstream))) => {
            Some(upstream.clone())
        }
        (None, Params::Local | Params::Unmanaged(None)) => None,
    };
    let unset_seen = adopted && state.is_some_and(|state| fact(state, UNSET_FACT).is_some());
    let source = state.and_then(source);
    let passed_over = source.and_then(|source| match source {
        // What it was given after it was seen without is an order, which was not begun yet.
        InputSource::ModuleConfig if unset_seen => None,
        // What is passed over at a first start is so until it changes.
        InputSource::ModuleConfig if adopted => settings_of(look, source).cloned(),
        InputSource::Manual | InputSource::ModuleConfig => unasked(look, source, state, &plane, &completed),
    });
    Ok(Record {
        attempt: 1,
        generation,
        // Which input counts was settled before the record was lost: no other takes its place by itself.
        source_chosen: source.is_some(),
        source,
        settings: None,
        passed_over,
        unset_seen,
        target: completed.clone(),
        under_way: !adopted,
        adopted,
        plane,
        nodes,
        given: None,
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
    let settings = settings_of(look, source)?;
    let modes = std::iter::once(&plane.in_force)
        .chain(plane.coming.iter().map(|coming| &coming.mode))
        .chain(plane.previous.iter());
    let is_held = modes.filter_map(params_of).any(|params| params == settings.params);
    let is_on_the_way = state.is_some_and(|state| {
        let repo = settings.params.upstream().map(|upstream| upstream.images_repo.as_str());
        let (from, to) = (fact(state, COMPLETED_FACT), fact(state, REGISTRY_FACT));
        let is_its = state.target_mode == settings.params.target() && (to == repo || !is_ours(state));
        is_its && (state.mode != state.target_mode || from != to)
    });
    (settings.params != *completed && !is_held && !is_on_the_way).then(|| settings.clone())
}

/// What an input says, if that is valid.
fn settings_of(look: &Observed, source: InputSource) -> Option<&Settings> {
    let input = match source {
        InputSource::Manual => &look.inputs.manual,
        InputSource::ModuleConfig => &look.inputs.module_config,
    };
    match input {
        Input::Valid { settings, .. } => Some(settings),
        Input::Absent | Input::Unset | Input::Unreadable(_) | Input::Invalid { .. } => None,
    }
}

/// What nodes were given tells which sources they need, so it is not guessed where they were given something.
fn had_their_secret(look: &Observed, managed: bool) -> Result<(), String> {
    let Seen::Known(nodes) = &look.nodes else { return Ok(()) };
    let has_some = |node: &Node| node.version.as_deref().is_some_and(|version| version != UNKNOWN);
    if look.outputs.bashible.is_absent() && (managed || nodes.iter().any(has_some)) {
        return Err("there is no Secret registry-bashible-config, and nodes were given one".to_owned());
    }
    Ok(())
}

/// The parameters of a mode that servers hold.
fn params_of(mode: &ServerMode) -> Option<Params> {
    match mode {
        ServerMode::Direct(upstream) => Some(Params::Direct(upstream.clone())),
        ServerMode::Proxy { upstream, ttl } => Some(Params::Proxy { upstream: upstream.clone(), ttl: *ttl }),
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
        return unmanaged(look, state, is_fixed, outside);
    }
    let is_alone = plane.coming.is_none() && plane.previous.is_empty();
    std::iter::once(&plane.in_force)
        .chain(plane.previous.iter())
        .chain(plane.coming.iter().map(|coming| &coming.mode))
        .filter(|mode| mode.target() == state.mode)
        // An abandoned target of the same mode may stand before it.
        .find(|mode| {
            !is_ours(state) || mode.upstream().map(|known| known.images_repo.as_str()) == fact(state, COMPLETED_FACT)
        })
        // Only the end of a switch takes the modes before away.
        .or_else(|| Some(&plane.in_force).filter(|mode| is_alone && mode.target() == state.target_mode))
        .and_then(params_of)
        .ok_or_else(|| format!("registry-state says {}, and no server holds that mode", state.mode))
}

/// The last completed target, which was an Unmanaged: bare, or with the parameters that are left of it.
fn unmanaged(
    look: &Observed,
    state: &RegistryState,
    is_fixed: bool,
    outside: Option<&Upstream>,
) -> Result<Params, String> {
    if look.outputs.bashible.is_absent() && !is_fixed {
        // Nodes have had nothing of ours yet.
        return Ok(Params::BARE);
    }
    let repo = fact(state, COMPLETED_FACT);
    match (repo, outside) {
        (None, Some(_)) if is_ours(state) => Ok(Params::BARE),
        (None, Some(upstream)) => Ok(Params::Unmanaged(Some(upstream.clone()))),
        (None, None) if !is_fixed => Ok(Params::BARE),
        (None, None) => {
            Err("registry-state says Unmanaged, and deckhouse-registry names the cluster's own address".to_owned())
        }
        (Some(repo), Some(upstream)) if upstream.images_repo == repo => Ok(Params::Unmanaged(Some(upstream.clone()))),
        (Some(repo), _) => {
            let other = outside.is_some_and(|upstream| upstream.host() == host_of(repo));
            let left = if other { None } else { left_in_mirrors(look, repo) };
            left.map(|upstream| Params::Unmanaged(Some(upstream))).ok_or_else(|| {
                format!("registry-state says Unmanaged with {repo}, and nothing says how that registry is asked")
            })
        }
    }
}

/// A registry outside, as nodes were told to ask it.
fn left_in_mirrors(look: &Observed, repo: &str) -> Option<Upstream> {
    let host = host_of(repo);
    let mirrors = look.outputs.bashible.value()?.hosts.get(host)?;
    let mirror = mirrors.iter().find(|mirror| mirror.host == host && mirror.rewrites.is_empty())?;
    let Mirror { scheme, ca, login, .. } = mirror.clone();
    Some(Upstream { images_repo: repo.to_owned(), scheme, ca, login })
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
    let word = fact(state, SOURCE_FACT)?;
    [InputSource::Manual, InputSource::ModuleConfig].into_iter().find(|source| source.as_str() == word)
}

/// Whether this program wrote it.
pub(super) fn is_ours(state: &RegistryState) -> bool {
    fact(state, SOURCE_FACT).is_some()
}

fn fact<'a>(state: &'a RegistryState, wanted: &str) -> Option<&'a str> {
    state.facts.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}
