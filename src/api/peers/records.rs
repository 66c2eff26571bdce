//! What other masters are answered of records: sums, records, manifests whether or not they are whole; and that something of theirs
//! is taken here; and what would go here by itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};

use super::super::App;
use super::super::error::ApiError;
use super::super::exception::Exception;
use super::super::exchange::Outcome;
use super::super::headers::text;
use super::super::route::{last_part, repo};
use crate::clock::Timestamp;
use crate::comparison::{
    Comparison, Taking, TakingState, buckets_of, lines_of, order_of, removable_lines, repository_lines,
};
use crate::mode::Local;
use crate::oci::{Digest, ErrorCode, Reference, RepoName};
use crate::serve::Peer;
use crate::store::{RemovalQuestion, Sum};
use crate::upstream::CLOCK;

/// Between two words of how far it is that something is taken.
const WORD_EVERY: Duration = Duration::from_secs(1);

/// A question of another master about records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// `/records`: the sum over all.
    Sum,
    /// `/records/repositories`: the sums of the repositories.
    Repositories,
    /// `/v2/<name>/records/buckets`: the sums of the buckets.
    Buckets(RepoName),
    /// `/v2/<name>/records/in/<buckets>`: the records of buckets.
    In(RepoName, Vec<u8>),
    /// `/v2/<name>/records/of/<reference>`: what was last said of a tag or a manifest.
    Of(RepoName, Reference),
    /// `/v2/<name>/records/manifest/<digest>`: its bytes.
    Manifest(RepoName, Digest),
    /// `/v2/<name>/records/take/<reference>`: an order.
    Take(RepoName, Reference),
    /// `/v2/<name>/records/drop/<sum>-<moment>`: an order.
    Drop(RepoName, Sum, Timestamp),
    /// `/v2/<name>/removable/{by-rule,unreached}`: what would go here by itself.
    Removable(RemovalQuestion),
}

impl Question {
    /// Reads a path; `None`: it is about no records.
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "/records" => return Some(Self::Sum),
            "/records/repositories" => return Some(Self::Repositories),
            _ => {}
        }
        let (front, last) = last_part(path.strip_prefix("/v2/")?)?;
        if last == "buckets" {
            let name = front.strip_suffix("/records")?;
            return Some(Self::Buckets(repo(name).ok()?));
        }
        if let Some(name) = front.strip_suffix("/removable") {
            let name = repo(name).ok()?;
            return match last {
                "by-rule" => Some(Self::Removable(RemovalQuestion::ByRule(name))),
                "unreached" => Some(Self::Removable(RemovalQuestion::Unreached(name))),
                _ => None,
            };
        }
        let (front, word) = last_part(front)?;
        let name = repo(front.strip_suffix("/records")?).ok()?;
        match word {
            "in" => Some(Self::In(name, buckets_of(last)?)),
            "of" => Some(Self::Of(name, last.parse().ok()?)),
            "manifest" => Some(Self::Manifest(name, last.parse().ok()?)),
            "take" => Some(Self::Take(name, last.parse().ok()?)),
            "drop" => order_of(last).map(|(sum, before)| Self::Drop(name, sum, before)),
            _ => None,
        }
    }

    const fn method(&self) -> &'static str {
        match self {
            Self::Take(..) | Self::Drop(..) => "POST",
            Self::Sum
            | Self::Repositories
            | Self::Buckets(_)
            | Self::In(..)
            | Self::Of(..)
            | Self::Manifest(..)
            | Self::Removable(_) => "GET",
        }
    }
}

/// Answers it.
pub(super) async fn answer(app: &App, method: &Method, peer: &Peer, question: Question) -> Outcome {
    if method.as_str() != question.method() {
        return Err(ApiError::method_not_allowed(question.method()));
    }
    let local = app.0.modes.load().local().ok_or_else(super::rests)?;
    match question {
        Question::Sum => {
            let sum = sum(&local)?;
            let mut response = bytes(Bytes::copy_from_slice(sum.as_bytes()));
            let clock = crate::clock::now().as_millis().to_string();
            response.headers_mut().insert(CLOCK, text(&clock));
            Ok(response)
        }
        Question::Repositories => {
            sum(&local)?;
            Ok(bytes(repository_lines(&local.store().repository_sums()).into()))
        }
        Question::Buckets(repo) => {
            let sums = local.store().bucket_sums(&repo).await?;
            let all: Vec<u8> = sums.iter().flat_map(|sum| *sum.as_bytes()).collect();
            Ok(bytes(all.into()))
        }
        Question::In(repo, buckets) => {
            let records = local.store().records_in(&repo, &buckets).await?;
            Ok(bytes(lines_of(&records).into()))
        }
        Question::Of(repo, of) => match local.store().record(&repo, &of).await? {
            Some(record) => Ok(bytes(lines_of(&[record]).into())),
            None => Err(ApiError::new(ErrorCode::ManifestUnknown, "nothing was said of it here")),
        },
        Question::Manifest(repo, digest) => {
            let stored = local.store().manifest(&repo, &Reference::Digest(digest)).await?;
            Ok(bytes(stored.bytes))
        }
        Question::Take(repo, of) => {
            let comparison = app.0.comparison.get().ok_or_else(super::rests)?;
            let from = peer.master.as_deref().and_then(|addresses| comparison.peer_at(addresses));
            let from = from.ok_or_else(|| {
                ApiError::exception(
                    Exception::NoPath,
                    "whoever wants something to be taken is no other master of the list",
                )
            })?;
            Ok(words(comparison.take(&repo, &of, from)))
        }
        Question::Drop(repo, sum, before) => {
            let comparison = app.0.comparison.get().ok_or_else(super::rests)?;
            let dropped = comparison.drop_by_order(&repo, sum, before).await;
            let word =
                dropped.map_or_else(|why| format!("failed {}\n", why.replace('\n', " ")), |()| "done\n".to_owned());
            Ok(bytes(word.into()))
        }
        Question::Removable(question) => {
            let comparison = app.0.comparison.get().ok_or_else(super::rests)?;
            Ok(removable(comparison.clone(), question))
        }
    }
}

/// # Errors
/// 503: not all records were read yet.
fn sum(local: &Local) -> Result<Sum, ApiError> {
    let unread = || ApiError::new(ErrorCode::Unavailable, "the records are not read yet").retry_after(1);
    local.store().records_sum().ok_or_else(unread)
}

fn bytes(bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

/// A line about each second with the bytes that came, and last `done`, or `failed` and why.
fn words(taking: Taking) -> Response {
    let next = |taking: Option<Taking>| async move {
        let mut taking = taking?;
        let is_over = tokio::time::timeout(WORD_EVERY, taking.over()).await.is_ok();
        let (line, rest) = match taking.state() {
            TakingState::Running if !is_over => (format!("{}\n", taking.moved()), Some(taking)),
            TakingState::Running => ("failed it ended without a word\n".to_owned(), None),
            TakingState::Done => (format!("{}\ndone\n", taking.moved()), None),
            TakingState::Failed(why) => (format!("failed {}\n", why.replace('\n', " ")), None),
        };
        Some((Ok::<_, Infallible>(Bytes::from(line)), rest))
    };
    let mut response = Response::new(Body::from_stream(stream::unfold(Some(taking), next)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// An empty line about each second while this master is at it, then what would go.
fn removable(comparison: Comparison, question: RemovalQuestion) -> Response {
    let answering = async move { removable_lines(&comparison.removable(question).await) };
    let next = |answering: Option<Pin<Box<dyn Future<Output = String> + Send>>>| async move {
        let mut answering = answering?;
        let (text, rest) = match tokio::time::timeout(WORD_EVERY, &mut answering).await {
            Ok(text) => (text, None),
            Err(_) => ("\n".to_owned(), Some(answering)),
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), rest))
    };
    let first: Pin<Box<dyn Future<Output = String> + Send>> = Box::pin(answering);
    let mut response = Response::new(Body::from_stream(stream::unfold(Some(first), next)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_from_the_end_of_the_path() {
        let repo = |text: &str| text.parse::<RepoName>().unwrap();
        let digest = crate::oci::Algorithm::Sha256.digest(b"content");
        for (path, expected) in [
            ("/records".to_owned(), Some(Question::Sum)),
            ("/records/repositories".to_owned(), Some(Question::Repositories)),
            ("/v2/a/b/records/buckets".to_owned(), Some(Question::Buckets(repo("a/b")))),
            ("/v2/records/records/buckets".to_owned(), Some(Question::Buckets(repo("records")))),
            ("/v2/a/records/in/00ff".to_owned(), Some(Question::In(repo("a"), vec![0, 255]))),
            ("/v2/a/records/of/v1".to_owned(), Some(Question::Of(repo("a"), "v1".parse().unwrap()))),
            (format!("/v2/a/records/of/{digest}"), Some(Question::Of(repo("a"), Reference::Digest(digest)))),
            (format!("/v2/a/records/manifest/{digest}"), Some(Question::Manifest(repo("a"), digest))),
            ("/v2/a/records/take/v1".to_owned(), Some(Question::Take(repo("a"), "v1".parse().unwrap()))),
            ("/v2/a/b/removable/by-rule".to_owned(), Some(Question::Removable(RemovalQuestion::ByRule(repo("a/b"))))),
            ("/v2/a/removable/unreached".to_owned(), Some(Question::Removable(RemovalQuestion::Unreached(repo("a"))))),
            ("/v2/a/removable/all".to_owned(), None),
            (
                format!("/v2/a/records/drop/{}-17", Sum::default()),
                Some(Question::Drop(repo("a"), Sum::default(), Timestamp::from_millis(17))),
            ),
            ("/v2/a/records/drop/17".to_owned(), None),
            ("/v2/removable/by-rule".to_owned(), None),
            ("/v2/records/buckets".to_owned(), None),
            ("/v2/a/records/in/".to_owned(), None),
            ("/v2/a/records/in/0".to_owned(), None),
            ("/v2/a/records/other/v1".to_owned(), None),
            ("/v2/A/records/buckets".to_owned(), None),
            (format!("/v2/a/records/manifests/{digest}"), None),
            ("/records/".to_owned(), None),
        ] {
            assert_eq!(Question::parse(&path), expected, "{path}");
        }
    }
}
