//! The law of every instant: each node can get each image that is rendered. A node asks as containerd does, mirror by mirror,
//! and a mirror inside of the cluster is every server in turn.

use std::collections::BTreeSet;

use super::world::{RELEASE, SimNode, SimServer, World, outside};
use crate::switch::documents::{FIXED_HOST, FIXED_PATH, Mirror, NODE_HOST, Phase, ServerMode};
use crate::switch::settings::Login;

/// Images, one bit each: what is asked for, and what of it is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Images(u32);

impl Images {
    const NONE: Self = Self(0);

    fn of(digests: &BTreeSet<u8>) -> Self {
        digests.iter().fold(Self::NONE, |images, digest| images.with(*digest))
    }

    const fn with(self, digest: u8) -> Self {
        Self(self.0 | 1 << digest)
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn digests(self) -> Vec<u8> {
        (0..32).filter(|digest| self.0 >> digest & 1 == 1).collect()
    }
}

/// A server that listens: who is answered, and what.
struct Answering<'w> {
    name: &'w str,
    server: &'w SimServer,
    logins: Vec<(&'w str, &'w str)>,
    /// By the mode in force, or by the coming one once that is ready.
    now: Images,
    /// By a previous mode alone.
    previous: Images,
}

fn pair(login: &Login) -> (&str, &str) {
    (&login.username, login.password.expose())
}

impl World {
    /// Law: every node can get every image that is rendered, whichever server it asks, and Deckhouse's credentials are taken.
    /// Answers by previous modes are counted as the servers do. The error is a sentence.
    pub(super) fn every_node_can_pull(&mut self) -> Result<(), String> {
        let servers = self.answering();
        let mut previous = vec![false; servers.len()];
        for (base, images) in self.rendered() {
            for (name, node) in &self.nodes {
                self.pull(node, &base, images, &servers, &mut previous).map_err(|(lacking, why)| {
                    format!("{name} can't pull {base}@{:?}: {why}; it has {:?}", lacking.digests(), node.applied)
                })?;
            }
        }
        self.deckhouse_is_taken(&servers)?;
        let names: Vec<String> = servers
            .iter()
            .zip(previous)
            .filter(|(_, asked)| *asked)
            .map(|(server, _)| server.name.to_owned())
            .collect();
        for name in names {
            self.servers.get_mut(&name).unwrap().previous_answers += 1;
        }
        Ok(())
    }

    /// Both laws.
    pub(super) fn pulls_and_could_go_back(&mut self) -> Result<(), String> {
        self.every_node_can_pull()?;
        self.the_way_back_is_open_where_it_is_said()
    }

    /// Nodes that are told that their configuration is settled can do without it: somebody may delete its Secret.
    fn the_way_back_is_open_where_it_is_said(&self) -> Result<(), String> {
        let given = self.bashible.value.as_ref().map(|config| &config.version);
        let Some(settled) = self.settled().filter(|settled| given == Some(settled)) else { return Ok(()) };
        let Some(old_form) = self.registry.taken.as_ref().and_then(|taken| taken.upstream().ok().flatten()) else {
            return Ok(());
        };
        let mut world = self.clone();
        for node in world.nodes.values_mut() {
            if node.applied.as_ref().is_some_and(|config| config.version == settled) {
                node.applied = None;
                node.old_form = Some(old_form.clone());
            }
        }
        world.every_node_can_pull().map_err(|why| format!("{settled} is said to be settled, and without it: {why}"))
    }

    /// What is rendered: images by the repository that they are named by.
    fn rendered(&self) -> Vec<(String, Images)> {
        let release = RELEASE.into_iter().fold(Images::NONE, Images::with);
        let mut rendered = vec![(format!("{}{}", self.deckhouse.address, self.deckhouse.path), release)];
        for (base, digest) in &self.pods {
            match rendered.iter_mut().find(|(known, _)| known == base) {
                Some((_, images)) => *images = images.with(*digest),
                None => rendered.push((base.clone(), Images::NONE.with(*digest))),
            }
        }
        rendered
    }

    /// Servers that answer: a pod whose file is not there does not start.
    fn answering(&self) -> Vec<Answering<'_>> {
        let mut answering = Vec::new();
        for (name, server) in self.servers.iter().filter(|(_, server)| server.up) {
            let Some(file) = &server.file else { continue };
            let plane = &file.file.plane;
            let has = |mode: &ServerMode| match mode {
                ServerMode::Direct(upstream) | ServerMode::Proxy { upstream, .. } => {
                    outside(&upstream.images_repo).map_or(Images::NONE, |(number, _)| Images::of(&self.held[&number]))
                }
                ServerMode::Local => Images::of(&server.stored),
                ServerMode::Unmanaged => Images::NONE,
            };
            let ready = plane.coming.as_ref().filter(|coming| coming.phase == Phase::Ready);
            let (now, previous) = if plane.in_force == ServerMode::Unmanaged {
                (Images::NONE, Images::NONE)
            } else {
                let now = has(&plane.in_force).or(ready.map_or(Images::NONE, |coming| has(&coming.mode)));
                let previous = plane.previous.iter().fold(Images::NONE, |all, mode| all.or(has(mode)));
                (now, previous.without(now))
            };
            let modes = std::iter::once(&plane.in_force)
                .chain(plane.coming.iter().map(|coming| &coming.mode))
                .chain(&plane.previous);
            // It knows who has the password of the Secret that it has taken.
            let ro = server.users.get("ro").and_then(|print| print.strip_prefix("of "));
            let logins = ro
                .map(|password| ("ro", password))
                .into_iter()
                .chain(modes.filter_map(|mode| mode.upstream()?.login.as_ref().map(pair)));
            answering.push(Answering { name, server, logins: logins.collect(), now, previous });
        }
        answering
    }

    /// The error: what it can't get, and why.
    fn pull(
        &self,
        node: &SimNode,
        base: &str,
        images: Images,
        servers: &[Answering<'_>],
        previous: &mut [bool],
    ) -> Result<(), (Images, String)> {
        let (host, path) = base.split_once('/').unwrap_or((base, ""));
        let (mut lacking, mut why) = (images, String::new());
        match (&node.applied, &node.old_form) {
            (Some(config), _) if config.hosts.contains_key(host) => {
                for mirror in config.hosts[host].iter().filter(|mirror| mirror.rewrites.is_empty() || node.rewrites) {
                    let answer = if mirror.host == NODE_HOST {
                        self.ask_inside(mirror, lacking, servers, previous)
                    } else {
                        self.ask_outside(mirror, path)
                    };
                    match answer {
                        Ok(images) => lacking = lacking.without(images),
                        Err(reason) => why.push_str(&reason),
                    }
                    if lacking == Images::NONE {
                        break;
                    }
                }
            }
            (None, Some(upstream)) if upstream.host() == host => {
                let images = self.take(base, upstream.login.as_ref()).map_err(|why| (lacking, why))?;
                lacking = lacking.without(images);
            }
            // A name that it never learned, because the switch went on without it.
            (Some(_), _) | (None, _) if node.was_skipped => return Ok(()),
            (Some(_), _) | (None, _) => return Err((images, "it knows no such host".to_owned())),
        }
        if lacking == Images::NONE { Ok(()) } else { Err((lacking, why)) }
    }

    fn ask_outside(&self, mirror: &Mirror, path: &str) -> Result<Images, String> {
        let path = match mirror.rewrites.first() {
            Some(rewrite) => path.replacen(FIXED_PATH, &rewrite.to, 1),
            None => path.to_owned(),
        };
        self.take(&format!("{}/{path}", mirror.host), mirror.login.as_ref())
    }

    /// What a registry outside has for a user.
    fn take(&self, repo: &str, login: Option<&Login>) -> Result<Images, String> {
        let (number, known) = outside(repo).ok_or_else(|| format!("{repo} is nowhere; "))?;
        if known.login.as_ref() != login {
            return Err(format!("{repo} refuses {login:?}; "));
        }
        Ok(Images::of(&self.held[&number]))
    }

    /// What every server has: which of them is asked nobody can tell.
    fn ask_inside(
        &self,
        mirror: &Mirror,
        images: Images,
        servers: &[Answering<'_>],
        previous: &mut [bool],
    ) -> Result<Images, String> {
        if self.ca.taken.is_some() && mirror.ca != self.ca.taken {
            return Err("the servers' authority is not the node's; ".to_owned());
        }
        let login = mirror.login.as_ref().map(pair);
        let mut all = images;
        for (server, previous) in servers.iter().zip(previous) {
            if !login.is_some_and(|login| server.logins.contains(&login)) {
                return Err(format!("{} refuses {login:?}: {:?}; ", server.name, server.server));
            }
            all = all.and(server.now.or(server.previous));
            *previous |= images.and(server.previous) != Images::NONE;
        }
        Ok(all)
    }

    fn deckhouse_is_taken(&self, servers: &[Answering<'_>]) -> Result<(), String> {
        let written = self.registry.taken.as_ref().filter(|written| **written != self.deckhouse);
        for registry in written.into_iter().chain([&self.deckhouse]).filter(|known| known.address == FIXED_HOST) {
            let text = registry.docker_config.expose();
            for Answering { name, server, logins, .. } in servers {
                let taken = logins.iter().any(|(user, password)| {
                    text.contains(&format!("\"username\":\"{user}\",\"password\":\"{password}\""))
                });
                if !taken {
                    return Err(format!("{name} does not take the credentials of deckhouse-registry: {server:?}"));
                }
            }
        }
        Ok(())
    }
}
