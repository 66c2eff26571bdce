//! Hides our credentials, in whatever form an upstream shows them to us.
//!
//! An upstream, its token server or a proxy before it may put a request's headers or its own signed addresses into an
//! error. Their words reach our clients, the log and `/status`, so they pass through here first. What is known (the
//! pairs, the corporate proxy's, tokens) is looked for plainly and under every common encoding; what is not known is
//! told by where it stands: after `Basic` or `Bearer`, in the query of an address, under a key such as `password`.

mod decode;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};

use super::options::Credentials;

/// Stands in the place of a secret.
const MASK: &str = "***";
/// Shorter secrets are looked for only as a whole pair: a password of one letter stands in every sentence.
const MIN_SECRET: usize = 4;
/// Tokens that are remembered, the newest: as many as there are repositories in use.
const MAX_TOKENS: usize = 1024;
/// No word that people read is longer, in bytes.
const MAX_WORD: usize = 1024;
/// Encodings inside one another that are looked through.
const DEPTH: usize = 3;

/// Schemes whose credentials follow them (RFC 9110, 11.4).
const SCHEMES: [&str; 4] = ["basic", "bearer", "negotiate", "ntlm"];
/// Separators between a scheme and its credentials.
const SEPARATORS: [&str; 17] = [
    " ", "\t", ":", "=", "\"", "'", "+", "\\", "%20", "%3a", "%3d", "%22", "%09", "&#32;", "&nbsp;", "&quot;", "&#x20;",
];
/// Headers whose value is a secret whatever it looks like.
const HEADERS: [&str; 6] = ["xregistryauth", "xauthtoken", "privatetoken", "xjfrogartapi", "cookie", "setcookie"];
/// Ends of the names of secrets, in lower case and without hyphens.
const KEYS: [&str; 14] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskeyid",
    "signature",
    "sig",
    "credential",
    "license",
    "licence",
    "authorization",
    "auth",
];

/// The secrets of an upstream with its mirrors and proxies. Shows none.
#[derive(Default)]
pub(super) struct Secrets {
    /// Passwords and pairs, `user:password`.
    known: Vec<SecretString>,
    /// Pairs alone: all that a decoded text has to be if they are short.
    pairs: Vec<SecretString>,
    tokens: Mutex<VecDeque<SecretString>>,
}

impl Secrets {
    /// Those of these users and passwords.
    pub(super) fn new<'a>(pairs: impl Iterator<Item = (&'a str, &'a SecretString)>) -> Self {
        let mut secrets = Self::default();
        for (user, password) in pairs {
            let pair = format!("{user}:{}", password.expose_secret());
            secrets.known.push(password.clone());
            secrets.known.push(SecretString::from(pair.clone()));
            secrets.pairs.push(SecretString::from(pair));
        }
        secrets
    }

    fn tokens(&self) -> MutexGuard<'_, VecDeque<SecretString>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `token` is a secret too, until [`MAX_TOKENS`] newer ones are.
    pub(super) fn note_token(&self, token: &str) {
        let mut tokens = self.tokens();
        if tokens.len() >= MAX_TOKENS {
            tokens.pop_front();
        }
        tokens.push_back(SecretString::from(token));
    }

    /// `text`, one line, without any secret. What can't be made safe by masking parts of it is masked whole.
    pub(super) fn hide(&self, text: &str) -> String {
        let text = self.clean(text);
        let words: Vec<_> = text.split(' ').map(|word| if self.leaks(word) { MASK } else { word }).collect();
        let text = words.join(" ");
        // A secret with spaces in it, encoded: no single word shows it.
        let split = decode::texts(&text).iter().any(|decoded| self.stands_in(decoded));
        if split { MASK.to_owned() } else { text }
    }

    /// Masks what needs no decoding to be seen.
    fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.known.iter().chain(self.tokens().iter()) {
            let secret = secret.expose_secret();
            if secret.len() >= MIN_SECRET {
                text = without(&text, secret);
            }
        }
        let text = without_credentials(&text);
        let mut clean = Vec::new();
        let mut next = Next::Shown;
        for word in text.split(' ') {
            let (shown, then) = match next {
                _ if word.is_empty() => (String::new(), next),
                _ if word == MASK => (MASK.to_owned(), Next::Shown),
                Next::Shown => without_keys(&without_address(word)),
                // What follows a scheme is hidden already.
                Next::Authorization if SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)) => {
                    (word.to_owned(), Next::Shown)
                }
                // Another scheme, if it is one.
                Next::Authorization if word.chars().all(|c| c.is_ascii_alphabetic()) => (MASK.to_owned(), Next::Hidden),
                Next::Hidden if word.ends_with(';') => (MASK.to_owned(), Next::Hidden),
                Next::Hidden | Next::Authorization => (MASK.to_owned(), Next::Shown),
            };
            next = then;
            clean.push(shown);
        }
        clean.join(" ")
    }

    /// Whether a word shows a secret once it is decoded.
    fn leaks(&self, word: &str) -> bool {
        word.len() > MAX_WORD || self.leaks_below(word, DEPTH)
    }

    fn leaks_below(&self, word: &str, depth: usize) -> bool {
        if depth == 0 {
            return false;
        }
        let deeper = |text: &String| self.clean(text) != *text || self.leaks_below(text, depth - 1);
        decode::texts(word).iter().any(deeper)
            || decode::bytes(word).iter().any(|text| self.stands_in(text) || self.is_pair(text) || deeper(text))
            || is_signed_token(word)
    }

    fn stands_in(&self, text: &str) -> bool {
        let long = |secret: &&SecretString| secret.expose_secret().len() >= MIN_SECRET;
        let tokens = self.tokens();
        self.known.iter().chain(tokens.iter()).filter(long).any(|secret| find(text, secret.expose_secret()).is_some())
    }

    fn is_pair(&self, text: &str) -> bool {
        self.pairs.iter().any(|pair| pair.expose_secret() == text)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// User and password, if there are any.
pub(super) fn pair(credentials: &Credentials) -> Option<(&str, &SecretString)> {
    match credentials {
        Credentials::Anonymous => None,
        Credentials::Basic { user, password } => Some((user, password)),
    }
}

/// The treatment of the next word.
#[derive(Clone, Copy)]
enum Next {
    Shown,
    /// Hidden, and so are those after it while they end in a semicolon.
    Hidden,
    /// It is the value of `Authorization`.
    Authorization,
}

/// Position of `needle`, in whatever case of letters.
fn find(text: &str, needle: &str) -> Option<usize> {
    let (text, needle) = (text.as_bytes(), needle.as_bytes());
    if needle.is_empty() {
        return None;
    }
    text.windows(needle.len()).position(|window| window.eq_ignore_ascii_case(needle))
}

fn without(text: &str, secret: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = find(rest, secret) {
        // Both ends are those of characters: the secret is UTF-8 too, and ASCII alone differs in case.
        out.push_str(&rest[..at]);
        out.push_str(MASK);
        rest = &rest[at + secret.len()..];
    }
    out.push_str(rest);
    out
}

/// Masks what follows the name of a scheme.
fn without_credentials(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut at = 0;
    while at < text.len() {
        let Some(after) = credentials_after(&lower, at) else {
            let length = text[at..].chars().next().map_or(1, char::len_utf8);
            out.push_str(&text[at..at + length]);
            at += length;
            continue;
        };
        out.push_str(&text[at..after]);
        let value = &text[after..];
        let end =
            value.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ',')).unwrap_or(value.len());
        // "Bearer token abc": the token is one word further.
        if matches!(&lower[after..after + end], "token" | "tokens" | "credentials") {
            out.push_str(&value[..end]);
            let next = value[end..].trim_start_matches([' ', '"', '\'', ':', '=']);
            at = text.len() - next.len();
            out.push_str(&text[after + end..at]);
            let end = next.find(char::is_whitespace).unwrap_or(next.len());
            out.push_str(if end > 0 { MASK } else { "" });
            at += end;
        } else {
            out.push_str(if end > 0 { MASK } else { "" });
            at = after + end;
        }
    }
    out
}

/// Position of the credentials, if the name of a scheme stands at `at`.
fn credentials_after(lower: &str, at: usize) -> Option<usize> {
    if lower[..at].chars().next_back().is_some_and(char::is_alphanumeric) && !ends_in_escape(&lower[..at]) {
        return None;
    }
    let scheme = SCHEMES.iter().find(|scheme| lower[at..].starts_with(**scheme))?;
    let begin = at + scheme.len();
    let mut after = begin;
    while let Some(separator) = SEPARATORS.iter().find(|separator| lower[after..].starts_with(**separator)) {
        after += separator.len();
    }
    (after > begin && after < lower.len()).then_some(after)
}

/// Whether a text ends in an escape such as `%20`, whose last character is no letter of a word.
fn ends_in_escape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let percent = bytes.len() >= 3 && bytes[bytes.len() - 3] == b'%';
    let unicode = bytes.len() >= 6 && bytes[bytes.len() - 6..].starts_with(b"\\u");
    percent || unicode
}

/// An address without its user, query and fragment: that is where signatures and passwords are.
fn without_address(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://").or_else(|| word.split_once(":\\/\\/")) else {
        return word.to_owned();
    };
    let rest = rest.split(['?', '#', ';']).next().unwrap_or_default();
    let end = rest.find(['/', '\\', '"']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => format!("{scheme}://{rest}"),
    }
}

/// Masks values under keys that name a secret: `key=value`, `key:value`, `"key":"value"`.
fn without_keys(word: &str) -> (String, Next) {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let named = before[..at].trim_end_matches(['"', '\'', '\\']);
        let quoted = named.len() < at;
        let name = named.rsplit(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')).next();
        let key: String = name.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).collect();
        let key = key.to_ascii_lowercase();
        rest = after;
        if after.is_empty() && key.ends_with("authorization") {
            return (out, Next::Authorization);
        }
        if after.is_empty() && HEADERS.contains(&key.as_str()) {
            return (out, Next::Hidden);
        }
        if !KEYS.iter().any(|end| key.ends_with(end)) {
            continue;
        }
        if after.is_empty() {
            // "password: wrong" is a sentence, `"password": "x"` is not.
            return (out, if quoted || before.ends_with('=') { Next::Hidden } else { Next::Shown });
        }
        let value = after.trim_start_matches(['"', '\'', '\\', ':', '=']);
        let skipped = after.len() - value.len();
        let end = value.find(['"', '\'', '&', ',', '<', '>', ')', '}', ']']).unwrap_or(value.len());
        out.push_str(&after[..skipped]);
        out.push_str(MASK);
        rest = &value[end..];
    }
    out.push_str(rest);
    (out, Next::Shown)
}

/// Whether a word holds a signed token (RFC 7519): two parts in JSON, and a signature.
fn is_signed_token(word: &str) -> bool {
    word.match_indices("eyJ").any(|(at, _)| {
        let token = word[at..].split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
        token.into_iter().next().is_some_and(|token| token.split('.').filter(|part| part.len() > 3).count() >= 2)
    })
}

#[cfg(test)]
mod tests;
