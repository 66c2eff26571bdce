//! ARCHITECTURE.md and the documents beside it, held against the tree: what they name has to exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a directory of the repository whose names end in `extension`, sorted.
fn files(below: &str, extension: &str) -> Vec<PathBuf> {
    fn collect(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, extension, found);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(below), extension, &mut found);
    found.sort();
    found
}

/// The names of all test functions in the text of a source file.
fn test_functions(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && !line.starts_with("//")) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            names.insert(name);
            is_test = false;
        }
    }
    names
}

/// Number and named tests of each invariant of ARCHITECTURE.md, in order.
fn invariants(text: &str) -> Vec<(usize, Vec<String>)> {
    let section = text.split("\n## Invariants\n").nth(1).expect("a section of invariants");
    let section = section.split("\n## ").next().unwrap();
    let mut found: Vec<(usize, String)> = Vec::new();
    for line in section.lines() {
        let number = line.split_once(". ").and_then(|(number, _)| number.parse().ok());
        match (number, found.last_mut()) {
            (Some(number), _) => found.push((number, line.to_owned())),
            (None, Some((_, text))) => {
                text.push(' ');
                text.push_str(line.trim());
            }
            (None, None) => {}
        }
    }
    let names = |text: &str| match text.split_once(" Tests: ") {
        Some((_, list)) => quoted(list).map(str::to_owned).collect(),
        None => Vec::new(),
    };
    found.into_iter().map(|(number, text)| (number, names(&text))).collect()
}

/// Names of all tests of the package.
fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in files("src", "rs").iter().chain(&files("tests/it", "rs")) {
        tests.append(&mut test_functions(&std::fs::read_to_string(file).unwrap()));
    }
    assert!(tests.len() > 500, "the tests are not where this test looks: {}", tests.len());
    tests
}

/// The texts between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let tests = all_tests();
    let invariants = invariants(&read("ARCHITECTURE.md"));
    let numbers: Vec<usize> = invariants.iter().map(|(number, _)| *number).collect();
    assert!(numbers.len() > 20 && numbers.iter().copied().eq(1..=numbers.len()), "{numbers:?}");
    let mut wrong = Vec::new();
    for (number, named) in invariants {
        if named.is_empty() {
            wrong.push(format!("invariant {number} names no test"));
        }
        wrong
            .extend(named.iter().filter(|name| !tests.contains(*name)).map(|name| format!("{number}: no test {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the test above reads with, on text that has each kind of mistake.
#[test]
fn an_invariant_without_tests_is_seen() {
    let text =
        "# A\n\n## Invariants\n\nIntroduction.\n\n1. One.\n   Tests: `a`,\n   `b`.\n2. Two.\n\n## Next\n\n3. No.\n";
    assert_eq!(invariants(text), [(1, vec!["a".to_owned(), "b".to_owned()]), (2, Vec::new())]);
    let source =
        "#[test]\nfn a() {}\nfn helper() {}\n    #[tokio::test(flavor = \"x\")]\n    /// fn c\n    async fn b() {}\n";
    assert_eq!(test_functions(source).into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

/// The rule of `api/error.rs`: a failure of another part has its status there, and no arm catches what is new.
#[test]
fn failures_become_statuses_in_one_file_and_none_by_default() {
    let mut turned = Vec::new();
    for file in files("src", "rs") {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let impls = text.lines().filter(|line| line.starts_with("impl From<") && line.contains(" for ApiError "));
        turned.extend(impls.map(|line| (name.clone(), line.to_owned())));
    }
    assert!(turned.len() >= 2, "{turned:?}");
    assert!(turned.iter().all(|(file, _)| file == "src/api/error.rs"), "{turned:#?}");
    let text = read("src/api/error.rs");
    let caught: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("_ =>")).collect();
    assert!(caught.is_empty(), "{caught:?}");
}

/// A heading as GitHub links to it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The targets of all links in a document, those in code left out.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

fn documents() -> Vec<PathBuf> {
    let own = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let own = own.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let below = ["docs", "deploy", "loadtests", "tests"].into_iter().flat_map(|below| files(below, "md"));
    own.chain(below).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{documents:?}");
    let (mut wrong, mut followed) = (Vec::new(), 0);
    for document in &documents {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, wanted) = link.split_once('#').map_or((&*link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let reached = match wanted {
                None => target.exists(),
                Some(wanted) => std::fs::read_to_string(&target)
                    .is_ok_and(|text| text.lines().any(|line| line.starts_with('#') && anchor(line) == wanted)),
            };
            if !reached {
                wrong.push(format!("{}: {link}", document.strip_prefix(root()).unwrap().display()));
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "{followed}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Words like `store/layout.rs`, below the repository, `src` or the document's directory. The change log tells of files as
/// they were.
#[test]
fn every_source_file_that_a_document_names_exists() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    for document in documents().iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        let text = std::fs::read_to_string(document).unwrap();
        for name in quoted(&text).filter(|word| word.contains('/') && word.ends_with(".rs") && !word.contains(' ')) {
            found += 1;
            let bases = [root(), &root().join("src"), document.parent().unwrap()];
            if !bases.iter().any(|base| base.join(name).exists()) {
                wrong.push(format!("{}: {name}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(found > 20, "{found}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_decision_has_its_parts_and_is_in_the_list() {
    let list = links(&read("docs/decisions/README.md"));
    let tests = all_tests();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files("docs/decisions", "md") {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        if !list.contains(&name.to_owned()) {
            wrong.push(format!("{name} is not in the list"));
        }
        for part in ["Context", "Choice", "Rejected", "Price", "Evidence"] {
            if !text.contains(&format!("\n## {part}\n")) {
                wrong.push(format!("{name} has no {part}"));
            }
        }
        let named = text.split_once("- Tests: ").map_or("", |(_, named)| named);
        // The names of tests are sentences; interop tests and configuration keys have no underscores.
        for test in quoted(named).filter(|word| word.contains('_') && !tests.contains(*word)) {
            wrong.push(format!("{name}: no test {test}"));
        }
    }
    assert!(seen > 9, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_dependency_has_its_reason_and_no_other() {
    let manifest = toml_edit::Document::parse(read("Cargo.toml")).unwrap();
    let keys = |table: &str| -> BTreeSet<String> {
        let table = manifest.as_table().get(table).and_then(toml_edit::Item::as_table_like).unwrap();
        // A member of the workspace is no dependency in this sense.
        let foreign =
            table.iter().filter(|(_, item)| item.as_table_like().is_none_or(|item| !item.contains_key("path")));
        foreign.map(|(name, _)| name.to_owned()).collect()
    };
    let wanted: BTreeSet<String> = keys("dependencies").union(&keys("dev-dependencies")).cloned().collect();
    let mut said = BTreeSet::new();
    for row in read("docs/reference/dependencies.md").lines().filter(|line| line.starts_with("| ")).skip(1) {
        for name in row.split('|').nth(1).unwrap().split(',') {
            assert!(said.insert(name.trim().to_owned()), "{name} stands twice");
        }
    }
    assert_eq!(said, wanted);
}
