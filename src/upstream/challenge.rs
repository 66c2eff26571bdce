//! `WWW-Authenticate`, read (RFC 9110, 11.6.1; Docker's token specification). Pure.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The credentials that a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token.
    Bearer {
        /// The token server's address.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// The challenge to answer: Bearer if there is one, else Basic. At most `limit` bytes of headers are read.
pub(super) fn read(headers: &HeaderMap, limit: usize) -> Option<Challenge> {
    let mut left = limit;
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        // What was read before it still counts.
        let Some(after) = left.checked_sub(value.len()) else { break };
        left = after;
        for (scheme, parameters) in parse(&String::from_utf8_lossy(value.as_bytes())) {
            let parameter = |name: &str| {
                parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

type Parameters = Vec<(String, String)>;

/// `scheme key="value", key=value, scheme …`; stops at what it can't read.
fn parse(text: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',', ';']);
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | ';' | '"')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        match (value, challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let Some((value, after)) = read_value(value) else { return challenges };
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn read_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some quote like a shell.
        if let Some((value, after)) = text.strip_prefix('\'').and_then(|quoted| quoted.split_once('\'')) {
            return Some((value.to_owned(), after));
        }
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        read(&headers, 200)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let full = r#"Bearer realm="https://auth/token",service="registry",scope="repository:a/b:pull,push""#;
        let expected = bearer("https://auth/token", Some("registry"), Some("repository:a/b:pull,push"));
        assert_eq!(of(&[full]), expected);
        assert_eq!(of(&[r#"Basic realm="x""#, full]), expected);
        assert_eq!(of(&[r#"bearer  realm = "r\"q" , service=s"#]), bearer("r\"q", Some("s"), None));
        assert_eq!(of(&[r#"Basic realm="x, y", Bearer realm="z""#]), bearer("z", None, None));
        assert_eq!(of(&[r#"Basic realm="Registry Realm",charset="UTF-8""#]), Some(Challenge::Basic));
        // Several fields, whatever stands in the others; several challenges in one, with credentials of their own.
        let own = r#"Bearer realm="https://auth/token",service="registry""#;
        let expected = bearer("https://auth/token", Some("registry"), None);
        for fields in [
            &[own, r#"Basic realm="x""#][..],
            &["Negotiate", own],
            &["nonsense =", own],
            &["Negotiate YII/+a==, NTLM, Bearer realm=\"https://auth/token\", service=registry, Basic realm=x"],
            &["Bearer realm='https://auth/token';service='registry'"],
            &["Bearer error=\"invalid_token\"", own],
        ] {
            assert_eq!(of(fields), expected, "{fields:?}");
        }
        let long = format!("Digest realm=\"{}\"", "x".repeat(300));
        assert_eq!(of(&[r#"Basic realm="x""#, &long]), Some(Challenge::Basic), "what came first still counts");
        for none in ["", "Negotiate", "Bearer", r#"Bearer service="s""#, "=x", r#"Bearer realm="open"#] {
            assert_eq!(of(&[none]), None, "{none}");
        }
        assert_eq!(of(&[&format!("Basic realm=\"{}\"", "x".repeat(300))]), None, "too long");
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "[ -~]{0,80}") {
            let _ = of(&[&text]);
            let _ = of(&[&format!("Bearer {text}")]);
        }
    }
}
