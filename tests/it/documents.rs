//! What the documents for administrators name is there: metrics, sentences that the log or an answer says, fields and keys.
//! The commands in them are tests/interop's affair, and that each command of ours parses is `src/cli/documents.rs`'s.

use std::collections::BTreeSet;
use std::path::Path;

use d8_registry::telemetry;

/// Those whose metrics are looked up.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "docs/CLOSED-NETWORK.md",
    "docs/GLOSSARY.md",
    "docs/INSTALL.md",
    "docs/RUNBOOK.md",
    "docs/SWITCHING.md",
    "docs/UPSTREAMS.md",
];
/// The one that quotes what is seen.
const RUNBOOK: &str = "docs/RUNBOOK.md";

/// First words of spans that are no sentence: programs, and what is said to them.
const PROGRAMS: [&str; 25] = [
    "admin",
    "base64",
    "chown",
    "containerd",
    "crictl",
    "ctr",
    "curl",
    "d8",
    "d8-registry",
    "daemonset",
    "deployment",
    "df",
    "du",
    "find",
    "gc",
    "journalctl",
    "kubectl",
    "mc",
    "mount",
    "openssl",
    "restic",
    "rsync",
    "ss",
    "sum",
    "helm",
];
/// Sentences that no literal has whole: their parts are put together.
const COMPOSED: [(&str, &[&str]); 2] = [
    ("user ro may only pull", &["may only pull"]),
    ("images are more than a Secret holds", &["are more than a Secret holds"]),
];
/// Names that are neither ours nor Deckhouse's: programs of the machine, fields of Kubernetes.
const FOREIGN: [&str; 9] = [
    "ctr",
    "df",
    "dmesg",
    "edit",
    "fsck",
    "smartctl",
    "timedatectl",
    "revisionHistoryLimit",
    "ttlSecondsAfterFinished",
];
/// So many words of a sentence may stand for one value in it.
const MOST_WORDS: usize = 5;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The texts of all files below a folder that end so.
fn texts(folder: &Path, ending: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts(&path, ending, found);
        } else if path.to_str().unwrap().ends_with(ending) {
            found.extend(std::fs::read_to_string(&path));
        }
    }
}

fn all(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), ending, &mut found);
    found
}

/// What stands between back quotes, blanks as one; blocks are left out.
fn spans(document: &str) -> Vec<String> {
    let mut is_inside = false;
    let mut paragraphs = vec![String::new()];
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_inside = !is_inside;
        } else if line.trim().is_empty() || line.starts_with('|') {
            paragraphs.push(String::new());
        }
        if !is_inside && !line.trim_start().starts_with("```") && !line.starts_with("    ") {
            let paragraph = paragraphs.last_mut().unwrap();
            paragraph.push_str(line);
            paragraph.push(' ');
        }
    }
    let quoted = paragraphs.iter().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    quoted.map(|span| span.replace("\\|", "|").split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The literals of a source; `{...}` in them stands for a value.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let skipped = match next {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            // A letter; else the name of a lifetime.
            '\'' if rest[1..].starts_with('\\') => rest[3..].find('\'').map_or(1, |end| end + 4),
            '\'' => rest[1..].char_indices().nth(1).filter(|(_, letter)| *letter == '\'').map_or(1, |(end, _)| end + 2),
            'r' if rest.starts_with("r#\"") => {
                let end = rest[3..].find("\"#").unwrap();
                found.push(rest[3..3 + end].to_owned());
                end + 5
            }
            '"' => {
                let (literal, length) = literal(&rest[1..]);
                found.push(literal);
                length + 1
            }
            letter => letter.len_utf8(),
        };
        rest = &rest[skipped..];
    }
    found
}

/// Up to the closing quote: what it says, and how long it is written.
fn literal(text: &str) -> (String, usize) {
    let mut said = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (said, at + 1),
            '\\' => match letters.next() {
                // The next line goes on with it, however far it is indented.
                Some((_, '\n')) => while letters.next_if(|(_, letter)| letter.is_whitespace()).is_some() {},
                Some((_, 'n')) => said.push('\n'),
                Some((_, other)) => said.push(other),
                None => break,
            },
            letter => said.push(letter),
        }
    }
    panic!("a literal has no end: {said}");
}

/// A word of a literal: `None` for one that has a value in it.
type Words = Vec<Option<String>>;

fn bare(word: &str) -> &str {
    word.trim_matches(['.', ',', ':', ';', '(', ')', '`', '"'])
}

fn words(literal: &str) -> Words {
    let mut plain = String::new();
    let mut depth = 0_usize;
    for letter in literal.chars() {
        match letter {
            '{' => {
                depth += 1;
                plain.push('\0');
            }
            '}' => depth = depth.saturating_sub(1),
            letter if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let word = |word: &str| if word.contains('\0') { None } else { Some(bare(word).to_owned()) };
    plain.split_whitespace().map(word).collect()
}

/// Whether the literal goes on with the whole sentence, of which half at least are its own words; `own` have been so far.
fn goes_on(sentence: &[&str], literal: &[Option<String>], own: usize, length: usize) -> bool {
    let Some((word, rest)) = sentence.split_first() else { return own * 2 >= length };
    match literal.split_first() {
        None => false,
        Some((Some(same), after)) => same == bare(word) && goes_on(rest, after, own + 1, length),
        Some((None, after)) => {
            (0..=MOST_WORDS.min(sentence.len())).any(|count| goes_on(&sentence[count..], after, own, length))
        }
    }
}

/// Whether a literal says it. What a document leaves out (`...`) may be anything.
fn is_said(sentence: &str, literals: &[Words]) -> bool {
    sentence.split("...").map(|piece| piece.split_whitespace().collect::<Vec<_>>()).filter(|piece| piece.len() > 1).all(
        |piece| {
            let begins = |literal: &Words| (0..literal.len()).any(|at| goes_on(&piece, &literal[at..], 0, piece.len()));
            literals.iter().any(begins)
        },
    )
}

/// Whether a span is what a log or an answer says: neither a command nor a setting.
fn is_sentence(span: &str) -> bool {
    let first = span.split(' ').next().unwrap_or_default();
    span.contains(' ')
        && !PROGRAMS.contains(&first)
        && !first.ends_with(':')
        && !first.contains(['=', '/'])
        && span.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '.' || letter == '\'')
}

/// `maxBytes` as `max_bytes`.
fn snake(word: &str) -> String {
    word.chars().fold(String::new(), |mut text, letter| {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
        text
    })
}

#[test]
fn every_metric_that_a_document_names_is_one() {
    let tables = [
        telemetry::FAMILIES,
        telemetry::NODE_PROXY_FAMILIES,
        telemetry::NODE_AGENT_FAMILIES,
        telemetry::SWITCH_FAMILIES,
    ];
    let known: BTreeSet<&str> = tables.into_iter().flatten().map(|family| family.name).collect();
    let mut count = 0;
    for document in DOCUMENTS {
        let text = text(document);
        for (at, _) in text.match_indices("d8_registry_") {
            let name = &text[at..];
            let name = &name[..name.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap()];
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_one = match name.strip_suffix('_') {
                // Several with one beginning.
                Some(_) => known.iter().any(|one| one.starts_with(name)),
                None => known.contains(name) || of_histogram.is_some_and(|name| known.contains(name)),
            };
            assert!(is_one, "{document} names {name}, which is no metric");
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn every_sentence_that_the_runbook_quotes_is_said_by_the_program() {
    let literals =
        all("src", ".rs").iter().flat_map(|source| literals(source)).map(|one| words(&one)).collect::<Vec<_>>();
    let literals: Vec<Words> = literals.into_iter().filter(|one| one.iter().flatten().count() > 1).collect();
    let mut count = 0;
    for span in spans(&text(RUNBOOK)).into_iter().filter(|span| is_sentence(span)) {
        let parts = COMPOSED.iter().find(|(sentence, _)| *sentence == span).map(|(_, parts)| *parts);
        let parts = parts.map_or_else(|| vec![span.as_str()], <[&str]>::to_vec);
        assert!(parts.iter().all(|part| is_said(part, &literals)), "nothing says {span:?}, which {RUNBOOK} quotes");
        count += 1;
    }
    assert!(count > 60, "{count}");
}

#[test]
fn every_name_that_the_runbook_quotes_is_one_of_the_program_or_the_chart() {
    let sources = [all("src", ".rs"), all("deploy", "")].concat();
    let parts =
        sources.iter().flat_map(|text| text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'));
    let known: BTreeSet<&str> = parts.collect();
    let is_name = |span: &&String| {
        span.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && span.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.')
    };
    let spans = spans(&text(RUNBOOK));
    let mut count = 0;
    for span in spans.iter().filter(is_name).filter(|span| !FOREIGN.contains(&span.as_str())) {
        for part in span.split('.') {
            let is_one = known.contains(part) || known.contains(snake(part).as_str());
            assert!(is_one, "{RUNBOOK} names {span:?}: {part:?} is nowhere");
        }
        count += 1;
    }
    assert!(count > 100, "{count}");
}

#[test]
fn a_sentence_is_found_with_other_values_in_it_and_not_with_other_words() {
    let source = "// \"no literal\"\nlet a = '\"'; f(\"stored on {have} of {} \\\n    masters, {why}\"); g(r#\"a \"b\" c\"#, &'static str);";
    assert_eq!(literals(source), ["stored on {have} of {} masters, {why}", "a \"b\" c"]);
    let literals = [words("stored on {have} of {} masters, {why}")];
    for said in ["stored on N of M masters", "on 1 of 3 masters", "stored on ... masters"] {
        assert!(is_said(said, &literals), "{said}");
    }
    for other in ["stored at N of M masters", "stored on N off M masters", "kept on N of masters that are there"] {
        assert!(!is_said(other, &literals), "{other}");
    }
    assert_eq!(spans("a `b\nc` d\n```\n`e`\n```\n| `f` | `g\\|h` |\n"), ["b c", "f", "g|h"]);
}
