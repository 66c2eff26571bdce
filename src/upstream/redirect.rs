//! Decides whether a redirect is followed. Which addresses may be reached is checked when connecting. Pure.

use reqwest::Url;

/// Why a redirect or a link is not followed, as what follows the host in a sentence. Never has the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotFollowed {
    /// It breaks the protocol.
    Invalid(String),
    /// It may not.
    Refused(String),
}

/// The next address. `trusted`: whether an address may be gone to in clear although we came over TLS.
pub(super) fn next(from: &Url, location: Option<&str>, trusted: impl Fn(&Url) -> bool) -> Result<Url, NotFollowed> {
    let location = location.ok_or_else(|| NotFollowed::Invalid("redirects without saying where to".to_owned()))?;
    let url = from.join(location).map_err(|_| NotFollowed::Invalid("redirects to no address".to_owned()))?;
    let host = host_port(&url);
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(NotFollowed::Refused(format!("redirects to a {} address, which is not followed", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotFollowed::Refused(format!("redirects to {host} with a user name, which is not followed")));
    }
    if from.scheme() == "https" && url.scheme() == "http" && !trusted(&url) {
        return Err(NotFollowed::Refused(format!(
            "redirects from TLS to http://{host}, which is not followed; name the host in trustedHosts if that is right"
        )));
    }
    Ok(url)
}

/// The path and query of a page that follows (RFC 8288), to be asked of the same upstream. `links`: all fields of the
/// name, each of which may hold several.
///
/// A registry behind a proxy often links to itself with a scheme, port, name or prefix that nobody outside knows. We
/// never go anywhere else for a page: where the link names the same list, what it adds is the query; the rest of it
/// counts only at the same host.
pub(super) fn next_page(from: &Url, links: &[&str]) -> Result<Option<String>, NotFollowed> {
    let fields = || links.iter().map(|link| link.trim()).filter(|link| !link.is_empty());
    let Some(target) = fields().find_map(next_target) else {
        if fields().any(|link| !link.contains('<')) {
            // To take it for the end would make a shorter list.
            return Err(NotFollowed::Invalid("sends a Link that can't be read".to_owned()));
        }
        return Ok(None);
    };
    let url = from.join(target).map_err(|_| NotFollowed::Invalid("links to a next page without address".to_owned()))?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    if !query.is_empty() && list_of(from).is_some() && list_of(&url) == list_of(from) {
        return Ok(Some(format!("{}{query}", from.path())));
    }
    if url.host_str() != from.host_str() {
        let host = host_port(&url);
        return Err(NotFollowed::Refused(format!(
            "links to a next page at another host, {host}, which is not followed"
        )));
    }
    Ok(Some(format!("{}{query}", url.path())))
}

/// The kind and subject of a list, whatever name its repository has before and behind a proxy.
fn list_of(url: &Url) -> Option<(String, String)> {
    let mut parts = url.path().trim_end_matches('/').rsplit('/');
    let (last, kind) = (parts.next()?, parts.next()?);
    matches!((kind, last), ("tags", "list") | ("referrers", _)).then(|| (kind.to_owned(), last.replace("%3A", ":")))
}

/// The target of `rel="next"`.
fn next_target(links: &str) -> Option<&str> {
    let mut rest = links;
    loop {
        let (target, after) = rest.split_once('<')?.1.split_once('>')?;
        let end = outside_quotes(after, |c| matches!(c, ',' | '<')).next().unwrap_or(after.len());
        let (mut parameters, next) = after.split_at(end);
        let mut is_next = false;
        while !parameters.is_empty() {
            let end = outside_quotes(parameters, |c| c == ';').next().unwrap_or(parameters.len());
            let (parameter, after) = parameters.split_at(end);
            is_next |= parameter.split_once('=').is_some_and(|(name, value)| {
                let mut relations = value.trim().trim_matches(['"', '\'']).split_whitespace();
                name.trim().eq_ignore_ascii_case("rel") && relations.any(|rel| rel.eq_ignore_ascii_case("next"))
            });
            parameters = after.get(1..).unwrap_or_default();
        }
        if is_next {
            return Some(target.trim());
        }
        rest = next;
    }
}

/// Positions of the wanted characters outside of double quotes.
fn outside_quotes(text: &str, wanted: impl Fn(char) -> bool) -> impl Iterator<Item = usize> {
    let mut quoted = false;
    text.char_indices().filter_map(move |(at, c)| {
        quoted ^= c == '"';
        (!quoted && wanted(c)).then_some(at)
    })
}

/// `host[:port]` for messages.
pub(super) fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(location: &str) -> Result<String, NotFollowed> {
        let from = "https://registry.example/v2/a/blobs/x".parse().unwrap();
        next(&from, Some(location), |url| url.host_str() == Some("trusted")).map(String::from)
    }

    #[test]
    fn redirects_lead_only_where_they_may() {
        assert_eq!(follow("https://s3.example/x?sig=1").unwrap(), "https://s3.example/x?sig=1");
        assert_eq!(follow("/v2/b").unwrap(), "https://registry.example/v2/b");
        assert_eq!(follow("//other/x").unwrap(), "https://other/x");
        assert_eq!(follow("http://trusted/x").unwrap(), "http://trusted/x");
        for refused in ["http://s3.example/x?sig=1", "ftp://x/", "file:///etc/passwd", "https://me:pw@x/"] {
            let Err(NotFollowed::Refused(why)) = follow(refused) else { panic!("{refused}") };
            assert!(!why.contains("sig") && !why.contains("pw"), "{why}");
        }
        assert!(matches!(follow("https://[bad"), Err(NotFollowed::Invalid(_))));
        assert!(matches!(next(&"http://a/".parse().unwrap(), None, |_| true), Err(NotFollowed::Invalid(_))));
    }

    #[test]
    fn pages_are_asked_of_the_same_host() {
        let from: Url = "https://registry.example:5000/v2/a/tags/list?n=2".parse().unwrap();
        let pages = |links: &[&str]| next_page(&from, links);
        let page = |link: &str| pages(&[link]);
        assert_eq!(page(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#).unwrap().unwrap(), "/v2/a/tags/list?last=b&n=2");
        assert_eq!(page("<http://registry.example/v2/x?l=1>;rel=next").unwrap().unwrap(), "/v2/x?l=1");
        assert_eq!(page(r#"</p>; rel="prev", </n>; title="t"; rel="next last""#).unwrap().unwrap(), "/n");
        assert_eq!(page(r#"</p>; rel="prev""#), Ok(None));
        assert_eq!(page(""), Ok(None));
        assert!(matches!(page("nonsense"), Err(NotFollowed::Invalid(_))));
        assert!(matches!(page("<https://evil/v2/x?n=1>; rel=next"), Err(NotFollowed::Refused(_))));
        // All fields of the name, and signs inside quotes.
        for links in [
            &[r#"</first>; rel="first""#, r#"</n>; rel="next""#][..],
            &[r#"</n>; rel="next""#, r#"</last>; rel="last""#],
            &["nonsense", "</n>; rel='next'"],
            &[r#"</p>; title="<a>, rel=next; rel=next"; rel=prev, </n>; title="x, y; z"; rel="Next""#],
        ] {
            assert_eq!(pages(links).unwrap().unwrap(), "/n", "{links:?}");
        }
        assert_eq!(pages(&[r#"</a>; rel="first""#, r#"</b>; rel="last""#]), Ok(None));
        assert!(pages(&[r#"</a>; rel="first""#, "nonsense"]).is_err());
    }

    #[test]
    fn the_same_list_under_another_name_is_asked_where_the_first_page_was() {
        let tags: Url = "https://registry.example:5000/v2/proxy/a/tags/list?n=2".parse().unwrap();
        for link in [
            "https://registry.internal/v2/proxy/a/tags/list?last=b",
            "http://10.0.0.1:8080/v2/proxy/a/tags/list?last=b",
            "/v2/a/tags/list?last=b",
            "/a/tags/list/?last=b",
            "https://inside/artifactory/api/docker/a/v2/a/tags/list?last=b",
            "?last=b",
            "list?last=b",
        ] {
            let next = next_page(&tags, &[&format!("<{link}>; rel=next")]).unwrap().unwrap();
            assert_eq!(next, "/v2/proxy/a/tags/list?last=b", "{link}");
        }
        let referrers: Url = "https://registry.example/v2/a/referrers/sha256:aa".parse().unwrap();
        let next = |link: &str| next_page(&referrers, &[&format!("<{link}>; rel=next")]);
        assert_eq!(
            next("https://in/v2/b/referrers/sha256%3Aaa?p=2").unwrap().unwrap(),
            "/v2/a/referrers/sha256:aa?p=2"
        );
        for elsewhere in ["https://in/v2/b/referrers/sha256:bb?p=2", "https://in/v2/a/tags/list?p=2", "https://in/?p=2"]
        {
            assert!(matches!(next(elsewhere), Err(NotFollowed::Refused(_))), "{elsewhere}");
        }
    }
}
