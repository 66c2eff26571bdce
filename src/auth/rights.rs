//! Roles, and the scopes that tokens carry.

use serde::{Deserialize, Serialize};

use crate::oci::RepoName;
pub use crate::values::{Anonymous, Role};

/// One thing to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read content of a repository.
    Pull,
    /// Write content of a repository.
    Push,
    /// Delete content of a repository.
    Delete,
    /// List the repositories.
    Catalog,
}

/// The text is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of ro, rw, mirror-puller, mirror-pusher")]
pub(super) struct InvalidRole;

impl Anonymous {
    /// Whether it covers `action`.
    #[must_use]
    pub const fn may(self, action: Action) -> bool {
        match self {
            Self::None => false,
            Self::Pull => matches!(action, Action::Pull),
            Self::Push => true,
        }
    }
}

impl Role {
    /// The role of exactly this name, as a mounted Secret has it; case counts.
    ///
    /// # Errors
    /// [`InvalidRole`] for any other text.
    pub(super) fn named(text: &str) -> Result<Self, InvalidRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(InvalidRole)
    }

    /// The limits of the role, in words that go behind a user's name.
    pub(super) const fn limits(self) -> &'static str {
        match self {
            Self::Ro => "may only pull",
            Self::Rw => "may pull, push and delete, but not list the repositories",
            Self::MirrorPuller => "may only pull and list the repositories",
            Self::MirrorPusher => "may do everything",
        }
    }

    /// Whether it covers `action`.
    #[must_use]
    pub const fn may(self, action: Action) -> bool {
        match self {
            Self::Ro => matches!(action, Action::Pull),
            Self::Rw => matches!(action, Action::Pull | Action::Push | Action::Delete),
            Self::MirrorPuller => matches!(action, Action::Pull | Action::Catalog),
            Self::MirrorPusher => true,
        }
    }
}

/// The scope that a client has to ask for to do `action`, in the form of Docker's token specification.
#[must_use]
pub fn needed_scope(action: Action, repo: Option<&RepoName>) -> String {
    let Some(repo) = repo else { return "registry:catalog:*".to_owned() };
    match action {
        Action::Pull | Action::Catalog => format!("repository:{repo}:pull"),
        Action::Push => format!("repository:{repo}:pull,push"),
        Action::Delete => format!("repository:{repo}:delete"),
    }
}

/// The rights that a token carries: the `access` claim of Docker's token specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Scopes(Vec<Scope>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Scope {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

const REPOSITORY: &str = "repository";
const REGISTRY: &str = "registry";
const CATALOG: &str = "catalog";

impl Scopes {
    /// Reads what a client asks for; what can't be read, or is of another kind, is left out.
    pub(super) fn parse(texts: &[String]) -> Self {
        Self(texts.iter().filter_map(|text| Scope::parse(text)).collect())
    }

    /// Cuts it to the actions that `may` allows. `*` becomes all of them.
    pub(super) fn keep(self, may: impl Fn(Action) -> bool) -> Self {
        let kept = self.0.into_iter().filter_map(|scope| {
            let actions: Vec<String> = if scope.kind == REGISTRY {
                may(Action::Catalog).then(|| "*".to_owned()).into_iter().collect()
            } else {
                let asked = |name: &str| scope.actions.iter().any(|action| action == name || action == "*");
                [("pull", Action::Pull), ("push", Action::Push), ("delete", Action::Delete)]
                    .into_iter()
                    .filter(|(name, action)| asked(name) && may(*action))
                    .map(|(name, _)| name.to_owned())
                    .collect()
            };
            (!actions.is_empty()).then_some(Scope { actions, ..scope })
        });
        Self(kept.collect())
    }

    /// Cuts it to what `other` holds too.
    pub(super) fn within(self, other: &Self) -> Self {
        let kept = self.0.into_iter().filter_map(|scope| {
            let theirs = |action: &String| {
                other.0.iter().any(|other| {
                    (&other.kind, &other.name) == (&scope.kind, &scope.name) && other.actions.contains(action)
                })
            };
            let actions: Vec<String> = scope.actions.iter().filter(|action| theirs(action)).cloned().collect();
            (!actions.is_empty()).then_some(Scope { actions, ..scope })
        });
        Self(kept.collect())
    }

    /// The repositories that it covers pulling from.
    pub(super) fn readable(&self) -> impl Iterator<Item = RepoName> {
        let pulls = self
            .0
            .iter()
            .filter(|scope| scope.kind == REPOSITORY && scope.actions.iter().any(|action| action == "pull"));
        pulls.filter_map(|scope| scope.name.parse().ok())
    }

    /// Whether it covers `action` on `repo`.
    pub(super) fn hold(&self, action: Action, repo: Option<&RepoName>) -> bool {
        let held = |kind: &str, name: &str, wanted: &str| {
            let found = |scope: &&Scope| scope.kind == kind && scope.name == name;
            self.0.iter().filter(found).any(|scope| scope.actions.iter().any(|action| action == wanted))
        };
        match (action, repo) {
            (Action::Catalog, _) => held(REGISTRY, CATALOG, "*"),
            (Action::Pull, Some(repo)) => held(REPOSITORY, repo.as_str(), "pull"),
            (Action::Push, Some(repo)) => held(REPOSITORY, repo.as_str(), "push"),
            (Action::Delete, Some(repo)) => held(REPOSITORY, repo.as_str(), "delete"),
            (Action::Pull | Action::Push | Action::Delete, None) => false,
        }
    }
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(plugin)`: the class in brackets says nothing to us.
        let kind = kind.split('(').next().unwrap_or_default();
        let known = match kind {
            REPOSITORY => name.parse::<RepoName>().is_ok(),
            REGISTRY => name == CATALOG,
            _ => false,
        };
        known.then(|| Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIONS: [Action; 4] = [Action::Pull, Action::Push, Action::Delete, Action::Catalog];

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![Just(Role::Ro), Just(Role::Rw), Just(Role::MirrorPuller), Just(Role::MirrorPusher)]
    }

    proptest! {
        #[test]
        fn a_token_never_holds_more_than_its_role_or_its_request(
            role in role(),
            asked in proptest::collection::vec("(repository|registry|x)(\\(p\\))?:(a|b/c|catalog|A):(pull|push|delete|\\*|pull,push)", 0..5),
        ) {
            let scopes = Scopes::parse(&asked).keep(|action| role.may(action));
            for name in ["a", "b/c"] {
                let repo: RepoName = name.parse().unwrap();
                for action in ACTIONS {
                    if scopes.hold(action, Some(&repo)) {
                        prop_assert!(role.may(action));
                        let named = asked.iter().any(|text| text.contains(&format!(":{name}:")) || action == Action::Catalog);
                        prop_assert!(named);
                    }
                }
            }
        }

        #[test]
        fn what_is_cut_to_another_holds_no_more_than_either(
            asked in proptest::collection::vec("(repository|registry):(a|b|catalog):(pull|push|delete|\\*)", 0..5),
            own in proptest::collection::vec("(repository|registry):(a|b|catalog):(pull|push|delete|\\*)", 0..5),
        ) {
            let (asked, own) = (Scopes::parse(&asked).keep(|_| true), Scopes::parse(&own).keep(|_| true));
            let cut = asked.clone().within(&own);
            for name in ["a", "b", "catalog"] {
                let repo: RepoName = name.parse().unwrap();
                for action in ACTIONS {
                    let both = asked.hold(action, Some(&repo)) && own.hold(action, Some(&repo));
                    prop_assert_eq!(cut.hold(action, Some(&repo)), both);
                }
            }
        }

        #[test]
        fn no_scope_panics(text in ".{0,60}") {
            let _ = Scopes::parse(&[text]);
        }
    }

    #[test]
    fn what_is_needed_is_what_is_held() {
        let repo: RepoName = "a/b".parse().unwrap();
        for action in ACTIONS {
            let target = (action != Action::Catalog).then_some(&repo);
            let scopes = Scopes::parse(&[needed_scope(action, target)]).keep(|_| true);
            assert!(scopes.hold(action, target), "{action:?}");
        }
        let star = Scopes::parse(&["repository:a/b:*".to_owned()]).keep(|_| true);
        assert!(star.hold(Action::Delete, Some(&repo)));
        assert!(!star.hold(Action::Catalog, None));
    }
}
