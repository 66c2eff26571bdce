//! The crate's source as the rules see it: every production line of every file, and the paths named in it.
//!
//! Comments are cut out, and so are items under `#[cfg(test)]`, by their own braces or semicolon; what follows them is read.
//! A file is a test file if it is a module declared under `#[cfg(test)]`, whatever its name.

use std::path::Path;

/// The files of a crate.
pub(super) struct Tree {
    /// Those with production lines.
    files: Vec<File>,
    /// Number of lines of every file, test files too.
    pub(super) lengths: Vec<(String, usize)>,
}

/// One production file.
pub(super) struct File {
    /// Path below `src`.
    pub(super) name: String,
    /// Text without comments and tests.
    pub(super) code: String,
    /// The module that the file is.
    pub(super) module: Vec<String>,
    /// The modules that it declares, tests left out.
    children: Vec<String>,
    imports: Vec<Import>,
    /// Paths named outside of imports, from the crate's root.
    paths: Vec<Vec<String>>,
}

/// One leaf of a `use`, of a path inside the crate.
struct Import {
    /// From the crate's root. A glob's is that of the module.
    path: Vec<String>,
    /// The name it has in the file; `*` for a glob.
    name: String,
    /// The file itself uses the name, so it is not re-exported only.
    used: bool,
}

/// A path that a file names.
pub(super) struct Named<'a> {
    pub(super) path: &'a [String],
    /// Re-exported, and not used by the file itself.
    pub(super) only_reexported: bool,
}

impl Tree {
    /// The source below `src`.
    pub(super) fn read(src: &Path) -> Self {
        fn collect(src: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(src, &path, found);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
                    found.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        collect(src, src, &mut found);
        Self::new(found)
    }

    /// The source given as paths below `src` and texts.
    pub(super) fn new(mut texts: Vec<(String, String)>) -> Self {
        texts.sort();
        let lengths = texts.iter().map(|(name, text)| (name.clone(), text.lines().count())).collect();
        let (mut tests, mut files) = (Vec::new(), Vec::<File>::new());
        for (name, text) in texts {
            let (file, declared) = File::new(name, &text);
            for test in declared {
                tests.push([file.module.clone(), vec![test]].concat());
            }
            files.push(file);
        }
        files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
        Self { files, lengths }
    }

    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// The file in which `path` ends up, and all paths on the way there: imports under another path are followed.
    pub(super) fn resolve(&self, path: &[String]) -> (Option<&File>, Vec<Vec<String>>) {
        let mut hops = vec![path.to_vec()];
        loop {
            let path = &hops[hops.len() - 1];
            let file = (0..=path.len()).rev().find_map(|length| self.module(&path[..length]));
            let Some(file) = file else { return (None, hops) };
            let rest = &path[file.module.len()..];
            let import = rest.first().and_then(|name| file.imports.iter().find(|import| import.name == *name));
            let Some(import) = import else { return (Some(file), hops) };
            let next = [&import.path[..], &rest[1..]].concat();
            if hops.contains(&next) {
                return (Some(file), hops);
            }
            hops.push(next);
        }
    }

    fn module(&self, module: &[String]) -> Option<&File> {
        self.files.iter().find(|file| file.name != "main.rs" && file.module == module)
    }
}

impl File {
    /// Reads a file. Also the modules that it declares under `#[cfg(test)]`.
    fn new(name: String, text: &str) -> (Self, Vec<String>) {
        let (mut code, bare) = without_literals(text);
        let (tokens, tests) = without_tests(&bare, &mut code);
        let stem = name.strip_suffix(".rs").unwrap();
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let module = match stem {
            "lib" | "main" => Vec::new(),
            stem => stem.split('/').map(str::to_owned).collect(),
        };
        let declared = tokens.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
        let children = declared.map(|three| three[1].to_owned()).collect();
        let code = String::from_utf8(code).unwrap();
        let mut file = Self { name, code, module, children, imports: Vec::new(), paths: Vec::new() };
        file.read_paths(&tokens);
        (file, tests)
    }

    /// The paths that the file names.
    pub(super) fn named(&self) -> impl Iterator<Item = Named<'_>> {
        let imports = self.imports.iter().map(|import| Named { path: &import.path, only_reexported: !import.used });
        imports.chain(self.paths.iter().map(|path| Named { path, only_reexported: false }))
    }

    /// Collects the imports and the other paths.
    fn read_paths(&mut self, tokens: &[&str]) {
        let mut others = Vec::new();
        let mut public = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            // `use<'a>` is not an import.
            if tokens[at] == "use" && tokens.get(at + 1) != Some(&"<") {
                let is_public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
                let mut leaves = Vec::new();
                at = read_tree(tokens, at + 1, &[], &mut leaves);
                for (segments, name) in leaves {
                    if let Some(path) = self.absolute(&segments) {
                        public.push(is_public);
                        self.imports.push(Import { path, name, used: true });
                    }
                }
            } else {
                others.push(at);
                at += 1;
            }
        }
        for (import, is_public) in self.imports.iter_mut().zip(public) {
            import.used = !is_public || others.iter().any(|at| tokens[*at] == import.name);
        }
        for at in others {
            let is_path = tokens.get(at + 1) == Some(&"::");
            // The rest of a path, a method, and `pub(in crate::part)`.
            let is_other = matches!(tokens[..at], [.., "::" | "."] | [.., "pub", "(", "in"]);
            if !is_path || is_other {
                continue;
            }
            let mut segments = vec![tokens[at].to_owned()];
            let mut next = at + 1;
            while tokens.get(next) == Some(&"::") && tokens.get(next + 1).is_some_and(|token| is_word(token)) {
                segments.push(tokens[next + 1].to_owned());
                next += 2;
            }
            let imported = self.imports.iter().find(|import| import.name == segments[0]);
            let path = match imported {
                Some(import) => Some([&import.path[..], &segments[1..]].concat()),
                None => self.absolute(&segments),
            };
            self.paths.extend(path);
        }
    }

    /// A path from the crate's root; `None` for one that leads out of the crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let (first, mut rest) = segments.split_first()?;
        let mut module = &self.module[..];
        match first.as_str() {
            "crate" => module = &[],
            "d8_registry" if self.name == "main.rs" => module = &[],
            "self" => {}
            "super" => rest = segments,
            child if self.children.iter().any(|known| known == child) => rest = segments,
            _ => return None,
        }
        while rest.first().is_some_and(|segment| segment == "super") {
            (rest, module) = (&rest[1..], module.split_last()?.1);
        }
        Some([module, rest].concat())
    }
}

/// Reads a tree of imports from `at` up to its `;`, `,` or `}`; answers the place behind it, or of the latter two.
fn read_tree(tokens: &[&str], mut at: usize, before: &[String], leaves: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).copied() {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    let end = read_tree(tokens, at, &path, leaves);
                    // One token at least: macros have marks that no path has.
                    at = (end + usize::from(tokens.get(end) == Some(&","))).max(at + 1);
                }
                at += 1;
                return at + usize::from(before.is_empty() && tokens.get(at) == Some(&";"));
            }
            Some("*") => {
                leaves.push((path, "*".to_owned()));
                return at + 1;
            }
            Some("as") => {
                leaves.push((path, tokens[at + 1].to_owned()));
                return at + 2;
            }
            Some("::") => at += 1,
            Some("self") if !path.is_empty() => at += 1,
            Some(word) if is_word(word) => {
                path.push(word.to_owned());
                at += 1;
            }
            _ => {
                if let Some(name) = path.last().cloned() {
                    leaves.push((path, name));
                }
                return at;
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// The text without comments, and the same without the text of literals. Both are as long as before.
fn without_literals(text: &str) -> (Vec<u8>, String) {
    let all = text.as_bytes();
    let (mut code, mut bare) = (all.to_vec(), all.to_vec());
    let mut at = 0;
    while at < all.len() {
        if let Some(length) = comment(&all[at..]) {
            blank(&mut code, at, length);
            blank(&mut bare, at, length);
            at += length;
            continue;
        }
        // `r"` begins a raw string, `for"` does not; `br"` does.
        let before = all[..at].iter().rev().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let in_word = before > 0 && !(before == 1 && all[at - 1] == b'b');
        match literal(&all[at..], in_word) {
            Some(length) => {
                blank(&mut bare, at, length);
                at += length;
            }
            None => at += 1,
        }
    }
    (code, String::from_utf8(bare).unwrap())
}

/// The length of the comment that the text begins with.
fn comment(text: &[u8]) -> Option<usize> {
    if text.starts_with(b"//") {
        return Some(text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len()));
    }
    if !text.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return Some(at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(text.len())
}

/// The length of the string or character that the text begins with.
fn literal(text: &[u8], in_word: bool) -> Option<usize> {
    let find = |end: &[u8], from: usize| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |at| from + at + end.len())
    };
    match text {
        [b'r', rest @ ..] if !in_word => {
            let marks = rest.iter().take_while(|byte| **byte == b'#').count();
            let end = [&b"\""[..], &rest[..marks]].concat();
            (rest.get(marks) == Some(&b'"')).then(|| find(&end, marks + 2))
        }
        [b'"', ..] => {
            let mut at = 1;
            while at < text.len() && text[at] != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            Some((at + 1).min(text.len()))
        }
        [b'\'', b'\\', ..] => Some(find(b"'", 3)),
        // One character; what has no mark behind it is a lifetime.
        [b'\'', first, ..] => {
            let length = match first {
                0xF0.. => 4,
                0xE0.. => 3,
                0xC0.. => 2,
                _ => 1,
            };
            (text.get(1 + length) == Some(&b'\'')).then_some(length + 2)
        }
        _ => None,
    }
}

fn blank(text: &mut [u8], at: usize, length: usize) {
    for byte in &mut text[at..at + length] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// The tokens of the production code; its tests are blanked in `code`. Also the modules declared for tests.
fn without_tests<'a>(bare: &'a str, code: &mut [u8]) -> (Vec<&'a str>, Vec<String>) {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let tokens = tokens(bare);
    let texts: Vec<&str> = tokens.iter().map(|(_, token)| *token).collect();
    let (mut kept, mut declared) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < texts.len() {
        if !texts[at..].starts_with(&TEST) {
            kept.push(texts[at]);
            at += 1;
            continue;
        }
        let end = item_end(&texts, at + TEST.len());
        let item = &texts[at..end];
        if let [.., "mod", name, ";"] = item {
            declared.push((*name).to_owned());
        }
        let from = tokens[at].0;
        let until = tokens.get(end).map_or(bare.len(), |(start, _)| *start);
        blank(code, from, until - from);
        at = end;
    }
    (kept, declared)
}

/// The place behind the item, field or arm that begins at `at`, with its attributes.
fn item_end(tokens: &[&str], mut at: usize) -> usize {
    const ITEMS: [&str; 13] = [
        "fn",
        "pub",
        "mod",
        "impl",
        "struct",
        "enum",
        "trait",
        "async",
        "unsafe",
        "extern",
        "macro_rules",
        "union",
        "type",
    ];
    let closing = |mut at: usize| {
        let mut depth = 0;
        while at < tokens.len() {
            match tokens[at] {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        at
    };
    while tokens.get(at) == Some(&"#") {
        at = closing(at + 1);
    }
    // The first word behind `pub` and `pub(…)` says how the item ends.
    let mut first = at;
    while tokens.get(first) == Some(&"pub") {
        first += 1;
        if tokens.get(first) == Some(&"(") {
            first = closing(first);
        }
    }
    let is_function = matches!(tokens.get(first..first + 2), Some(["const", "fn" | "unsafe" | "async" | "extern"]));
    let word = tokens.get(first).copied().unwrap_or_default();
    let ends_by_semicolon = matches!(word, "use" | "let" | "const" | "static" | "type") && !is_function;
    let is_item = ends_by_semicolon || is_function || ITEMS.contains(&word);
    while at < tokens.len() {
        match tokens[at] {
            "{" if !ends_by_semicolon => return closing(at),
            "(" | "[" | "{" => at = closing(at),
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            ")" | "]" | "}" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Words, `::` and single marks, each with its place.
fn tokens(bare: &str) -> Vec<(usize, &str)> {
    let all = bare.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let word = all[at..].iter().take_while(|byte| **byte == b'_' || byte.is_ascii_alphanumeric()).count();
        let length = match (word, &all[at..]) {
            (0, [b':', b':', ..]) => 2,
            (0, _) => bare[at..].chars().next().map_or(1, char::len_utf8),
            (word, _) => word,
        };
        if !all[at].is_ascii_whitespace() {
            tokens.push((at, &bare[at..at + length]));
        }
        at += length;
    }
    tokens
}
