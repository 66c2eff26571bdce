//! The rules. Each answers what breaks it, in words that say what to do.

use std::path::Path;

use super::source::{File, Tree};

/// Rows of parts and what they may use.
type Rows<'a> = &'a [(&'a str, &'a [&'a str])];

/// What each part imports, in whatever form, is what its row allows; every file belongs to a part.
pub(super) fn fences(tree: &Tree, rows: Rows<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in tree.files() {
        let Some(part) = part_of_file(file, rows) else {
            wrong.push(format!("{} belongs to no part: give it a row", file.name));
            continue;
        };
        let may_use = allowed(part, rows);
        for named in file.named() {
            // By every path that leads to it: a re-export elsewhere opens no gate.
            for hop in tree.resolve(named.path).1 {
                match part_of(&hop, rows) {
                    Some(other) if other == part || may_use.contains(&other) => {}
                    Some(other) => wrong.push(format!("{} uses {other} ({})", file.name, hop.join("::"))),
                    None => wrong.push(format!("{} uses {:?}, which is no part", file.name, hop.join("::"))),
                }
            }
        }
    }
    wrong.dedup();
    wrong
}

/// The rows name parts that have rows, and no part uses itself by a detour.
pub(super) fn floors(rows: Rows<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (part, may_use) in rows {
        let unknown = may_use.iter().filter(|other| row(other, rows).is_none());
        wrong.extend(unknown.map(|other| format!("{other}, which {part} may use, has no row")));
        let mut reached = may_use.to_vec();
        let mut next = 0;
        while let Some(other) = reached.get(next).copied() {
            next += 1;
            let more = allowed(other, rows).iter().filter(|more| !reached.contains(*more)).copied();
            let more: Vec<&str> = more.collect();
            reached.extend(more);
        }
        if reached.contains(part) {
            wrong.push(format!("{part} may use itself by a detour"));
        }
    }
    wrong
}

/// Files of one part import each other in no circle but those of `standing`, which all stand. That a file uses the module
/// that it is in does not count: it sees what is defined there, as a method sees the fields.
pub(super) fn circles(tree: &Tree, rows: Rows<'_>, standing: &[&[&str]]) -> Vec<String> {
    let files = tree.files();
    let uses: Vec<Vec<usize>> = files.iter().map(|file| imports_within(tree, file, rows)).collect();
    let reached: Vec<Vec<bool>> = (0..files.len()).map(|from| reach(&uses, from)).collect();
    let mut found: Vec<Vec<&str>> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let ring = (0..files.len()).filter(|other| reached[number][*other] && reached[*other][number]);
        let ring: Vec<&str> = ring.map(|other| files[other].name.as_str()).collect();
        if ring.first() == Some(&file.name.as_str()) {
            found.push(ring);
        }
    }
    let new = found.iter().filter(|ring| !standing.contains(&&ring[..]));
    let gone = standing.iter().filter(|ring| !found.iter().any(|found| found == *ring));
    new.map(|ring| format!("a circle of imports that is not in the list, or not so: {ring:?}"))
        .chain(gone.map(|ring| format!("this circle is gone or smaller, change the list: {ring:?}")))
        .collect()
}

/// The files of its part that `file` uses, without the modules that it lies in.
fn imports_within(tree: &Tree, file: &File, rows: Rows<'_>) -> Vec<usize> {
    let paths = file.named().filter(|named| !named.only_reexported).map(|named| named.path);
    let used = paths.filter_map(|path| tree.resolve(path).0);
    let used = used.filter(|used| part_of_file(used, rows) == part_of_file(file, rows));
    let used = used.filter(|used| !file.module.starts_with(&used.module));
    used.filter_map(|used| tree.files().iter().position(|other| other.name == used.name)).collect()
}

/// The files that `from` uses, directly or by others.
fn reach(uses: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut reached = vec![false; uses.len()];
    let mut next = uses[from].clone();
    while let Some(file) = next.pop() {
        if !std::mem::replace(&mut reached[file], true) {
            next.extend(&uses[file]);
        }
    }
    reached
}

/// Words stand only where they may.
pub(super) fn words(tree: &Tree, only_in: &[(&str, &[&str])]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in tree.files() {
        for (word, places) in only_in {
            if file.code.contains(word) && !places.iter().any(|place| file.name.starts_with(place)) {
                wrong.push(format!("{} has {word:?}, which belongs in {places:?}", file.name));
            }
        }
    }
    wrong
}

/// No file or directory has a name that says nothing.
pub(super) fn named_badly(tree: &Tree, empty: &[&str]) -> Vec<String> {
    let is_empty = |name: &str| {
        let path = Path::new(name).with_extension("");
        path.iter().any(|part| empty.contains(&part.to_str().unwrap()))
    };
    tree.files().iter().filter(|file| is_empty(&file.name)).map(|file| format!("{} says nothing", file.name)).collect()
}

/// No file has more than `most` lines.
pub(super) fn crowded(tree: &Tree, most: usize) -> Vec<String> {
    let long = tree.lengths.iter().filter(|(_, lines)| *lines > most);
    long.map(|(name, lines)| format!("{name} has {lines} lines: it is two files")).collect()
}

/// The part of a file: that of its module; `lib` and `main` are parts of their own.
fn part_of_file<'a>(file: &File, rows: Rows<'a>) -> Option<&'a str> {
    match file.name.as_str() {
        "lib.rs" => row("lib", rows),
        "main.rs" => row("main", rows),
        _ => part_of(&file.module, rows),
    }
}

/// The part that a path leads into: of the rows that it begins with the longest.
fn part_of<'a>(path: &[String], rows: Rows<'a>) -> Option<&'a str> {
    (1..=path.len()).rev().find_map(|length| row(&path[..length].join("/"), rows))
}

fn row<'a>(name: &str, rows: Rows<'a>) -> Option<&'a str> {
    rows.iter().map(|(part, _)| *part).find(|part| *part == name)
}

/// The parts that a part may use.
fn allowed<'a>(part: &str, rows: Rows<'a>) -> &'a [&'a str] {
    rows.iter().find(|(name, _)| *name == part).map_or(&[], |(_, may_use)| may_use)
}
