//! Decodes a text in every common way to write one text inside another. Pure.

use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};
use percent_encoding::percent_decode_str;

/// Shorter runs decode to less than a pair.
const MIN_RUN: usize = 4;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// `text` without percent-encoding, HTML's and JSON's escapes; only what differs from it. On one line.
pub(super) fn texts(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if text.contains('%') {
        found.push(percent_decode_str(text).decode_utf8_lossy().into_owned());
    }
    if text.contains(['+', '%']) {
        found.push(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned());
    }
    if text.contains('&') {
        found.push(html(text));
    }
    if text.contains('\\') {
        found.push(backslashes(text));
    }
    for found in &mut found {
        *found = found.replace(|c: char| c.is_whitespace() || c.is_control(), " ");
    }
    found.retain(|found| found != text);
    found
}

/// The decoded runs of `text` that may be base64 or hexadecimal.
pub(super) fn bytes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for run in text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_'))) {
        base64(run, &mut found);
    }
    for run in text.split(|c: char| !c.is_ascii_hexdigit()) {
        hexadecimal(run, &mut found);
    }
    found
}

fn hexadecimal(run: &str, found: &mut Vec<String>) {
    for run in [run, run.get(1..).unwrap_or_default()].into_iter().filter(|run| run.len() >= 2 * MIN_RUN) {
        let pairs = run.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Vec<u8> = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        found.push(String::from_utf8_lossy(&bytes).into_owned());
    }
}

/// At each of the four places where a group may begin: letters may stand before it without a gap.
fn base64(run: &str, found: &mut Vec<String>) {
    let engine = if run.contains(['-', '_']) { &URL } else { &PLAIN };
    for begin in 0..4 {
        let Some(run) = run.get(begin..).filter(|run| run.len() >= MIN_RUN) else { return };
        let whole = if run.len() % 4 == 1 { &run[..run.len() - 1] } else { run };
        if let Ok(bytes) = engine.decode(whole) {
            found.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// HTML's character references, those that hold letters and signs of ASCII.
fn html(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let found = after.split_once(';').filter(|(name, _)| name.len() <= 10).and_then(|(name, rest)| {
            let number = name.strip_prefix('#');
            let character = match (name, number) {
                ("amp", _) => '&',
                ("lt", _) => '<',
                ("gt", _) => '>',
                ("quot", _) => '"',
                ("apos", _) => '\'',
                ("nbsp", _) => ' ',
                ("colon", _) => ':',
                ("sol", _) => '/',
                ("plus", _) => '+',
                ("equals", _) => '=',
                (_, Some(number)) => {
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)?
                }
                _ => return None,
            };
            Some((character, rest))
        });
        match found {
            Some((character, after)) => {
                out.push(character);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Escapes of JSON (RFC 8259, 7), and `\x41` of others.
fn backslashes(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let Some(kind) = after.chars().next() else { break };
        let digits = match kind {
            'u' => 4,
            'x' => 2,
            _ => 0,
        };
        let code = after.get(1..=digits).filter(|_| digits > 0).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(character) => {
                out.push(character);
                rest = &after[1 + digits..];
            }
            None => {
                out.push(if matches!(kind, 'n' | 'r' | 't' | 'b' | 'f') { ' ' } else { kind });
                rest = &after[kind.len_utf8()..];
            }
        }
    }
    out.push_str(rest);
    out
}
